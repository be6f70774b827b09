#include "loza/evaluate/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "loza/base/check.h"
#include "loza/base/utf8.h"

namespace loza {
namespace {

constexpr double kColumnsWidth = 540;  // SVG units: the page shows it at about this size

struct Colour {
  std::string_view name, light, dark;
};
// Chosen for contrast on their own background: text at least 4.5:1, bars 3:1.
constexpr std::array<Colour, 17> kColours = {{
    {"bg", "#ffffff", "#14171c"},
    {"panel", "#f6f7f9", "#1d2127"},
    {"ink", "#1b1f24", "#e6e9ed"},
    {"soft", "#57606a", "#a3adb8"},
    {"grid", "#dde1e6", "#343b44"},
    {"yes", "#1a7f37", "#4ac26b"},
    {"no", "#b42318", "#ff7b72"},
    {"dense", "#4b5563", "#b8c1cc"},
    {"zigzag", "#0969da", "#58a6ff"},
    {"other", "#b35900", "#f0a04b"},
    {"grey", "#aab3bd", "#667080"},
    {"series-0", "#0969da", "#58a6ff"},
    {"series-1", "#b35900", "#f0a04b"},
    {"series-2", "#1a7f37", "#4ac26b"},
    {"series-3", "#8250df", "#bc8cff"},
    {"series-4", "#cf222e", "#ff7b72"},
    {"series-5", "#57606a", "#a3adb8"},
}};

constexpr std::string_view kRules = R"(
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--soft); }
svg .name, svg .value { fill: var(--ink); }
svg .value { font-variant-numeric: tabular-nums; font-weight: 600; }
svg .grid { stroke: var(--grid); stroke-width: 1; }
svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .whisker { stroke: var(--ink); stroke-width: 1.4; }
svg .rim { stroke: var(--panel); stroke-width: 4; stroke-opacity: 0.75; }
svg .dot { fill: var(--ink); stroke: var(--panel); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2.5; }
)";

bool is_series(const Colour& colour) { return colour.name.starts_with("series-"); }

// Labels of series have their colour; grey words could not be read.
std::string class_rules() {
  std::string rules;
  for (const Colour& colour : kColours) {
    const std::string_view name = colour.name;
    const bool is_class = is_series(colour) || name == "dense" || name == "zigzag" ||
                          name == "other" || name == "grey";
    if (!is_class) continue;
    rules += fmt::format(
        "svg .fill.{0} {{ fill: var(--{0}); }} svg .line.{0} {{ stroke: var(--{0}); }}\n", name);
    if (is_series(colour))
      rules += fmt::format("svg .name.ink-{0} {{ fill: var(--{0}); }}\n", name);
  }
  return rules;
}

std::string variables(std::string_view Colour::*value) {
  std::string out;
  for (const Colour& colour : kColours) {
    out += fmt::format(" --{}: {};", colour.name, colour.*value);
  }
  return out;
}

// An axis: values [from, to] drawn over pixels [begin, end], and round values to mark.
struct Axis {
  double from = 0, to = 1;
  double begin = 0, end = 1;

  double at(double value) const { return begin + (value - from) / (to - from) * (end - begin); }
};

// About `count` round steps (1, 2 or 5 times a power of ten) that cover `range`.
double round_step(double range, int count) {
  const double raw = range / count;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (raw <= factor * power * (1 + 1e-9)) return factor * power;
  }
  return 10 * power;
}

// Round values from the last at or below `low` to the first at or above `high`.
std::vector<double> round_ticks(double low, double high) {
  if (!(high > low)) high = low + 1;
  const double step = round_step(high - low, 4);
  std::vector<double> ticks;
  const auto first = static_cast<std::int64_t>(std::floor(low / step + 1e-9));
  const auto last = static_cast<std::int64_t>(std::ceil(high / step - 1e-9));
  for (std::int64_t i = first; i <= last; ++i) ticks.push_back(static_cast<double>(i) * step);
  return ticks;
}

std::string number(double value) {
  if (std::abs(value) < 1000) return fmt::format("{:.4g}", value);
  std::string digits = fmt::format("{}", std::llround(value));
  const std::ptrdiff_t first = value < 0 ? 1 : 0;
  for (auto at = std::ssize(digits) - 3; at > first; at -= 3) {
    digits.insert(static_cast<std::size_t>(at), 1, ',');
  }
  return digits;
}

std::string text(double x, double y, const char* anchor, std::string_view content,
                 std::string_view css_class = "tick") {
  return fmt::format(R"(<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>)", x, y,
                     anchor, css_class, escape_markup(content));
}

std::string line(double x1, double y1, double x2, double y2, std::string_view css_class) {
  return fmt::format(R"(<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>)", x1,
                     y1, x2, y2, css_class);
}

std::string rect(double x, double y, double width, double height, std::string_view css_class,
                 std::string_view hint) {
  return fmt::format(
      R"(<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2" class="fill {}">)"
      "<title>{}</title></rect>",
      x, y, width, height, css_class, escape_markup(hint));
}

// A horizontal |---| with a rim in the background's colour, to be seen on any bar.
std::string whisker(double low, double high, double y) {
  std::string out;
  for (const char* css_class : {"rim", "whisker"}) {
    out += line(low, y, high, y, css_class) + line(low, y - 4, low, y + 4, css_class) +
           line(high, y - 4, high, y + 4, css_class);
  }
  return out;
}

std::string circle(double x, double y, double radius, std::string_view css_class,
                   std::string_view hint) {
  return fmt::format(
      R"(<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" class="{}"><title>{}</title></circle>)", x, y,
      radius, css_class, escape_markup(hint));
}

std::string svg(const std::string& label, double width, double height, const std::string& body) {
  return fmt::format(
      R"(<svg viewBox="0 0 {0:.0f} {1:.0f}" style="max-width:{0:.0f}px" role="img" aria-label="{2}">)"
      "{3}</svg>\n",
      width, height, escape_markup(label), body);
}

// Horizontal grid lines with their numbers, and both axes' titles.
std::string frame(const Axis& x, const Axis& y, const std::vector<double>& y_ticks,
                  const std::string& x_title, const std::string& y_title) {
  std::string body;
  for (const double tick : y_ticks) {
    body += line(x.begin, y.at(tick), x.end, y.at(tick), tick == 0 ? "axis" : "grid");
    body += text(x.begin - 6, y.at(tick) + 4, "end", number(tick));
  }
  body += text(x.begin, 12, "start", y_title, "title");
  body += text((x.begin + x.end) / 2, y.begin + 34, "middle", x_title, "title");
  return body;
}

// Round numbers that cover the lines' places.
std::vector<std::pair<double, std::string>> round_places(const std::vector<Line>& lines) {
  double first = INFINITY, last = -INFINITY;
  for (const Line& line : lines) {
    if (line.points.empty()) continue;
    first = std::min(first, line.points.front().first);
    last = std::max(last, line.points.back().first);
  }
  std::vector<std::pair<double, std::string>> places;
  for (const double tick : first <= last ? round_ticks(first, last) : round_ticks(0, 1)) {
    places.emplace_back(tick, number(tick));
  }
  return places;
}

std::string path_through(const std::vector<std::pair<double, double>>& pixels,
                         std::string_view css_class) {
  std::string path;
  for (const auto& [px, py] : pixels) {
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : " L", px, py);
  }
  return fmt::format(R"(<path d="{}" class="{}"/>)", path, css_class);
}

// Each says the value of its point.
std::string dots_at(const std::vector<std::pair<double, double>>& pixels, const Line& line) {
  std::string dots;
  for (std::size_t i = 0; i < pixels.size(); ++i) {
    dots += circle(pixels[i].first, pixels[i].second, 3.5, "fill " + line.css_class,
                   line.label + ": " + number(line.points[i].second));
  }
  return dots;
}

// Places for labels at the right end of lines, moved apart where they would touch.
std::vector<double> spread_labels(std::vector<double> wanted) {
  constexpr double kLineHeight = 14;
  std::vector<std::size_t> order(wanted.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return wanted[a] < wanted[b]; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    wanted[order[i]] = std::max(wanted[order[i]], wanted[order[i - 1]] + kLineHeight);
  }
  return wanted;
}

}  // namespace

std::string escape_markup(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const Utf8Char c = utf8_at(text, i);
    const bool is_control = (c.code < 0x20 && c.code != '\n' && c.code != '\t') || c.code == 0x7F;
    if (!c.valid || is_control || c.code == 0xFFFE || c.code == 0xFFFF) {
      append_utf8(out, 0xFFFD);
    } else if (c.code == '&') {
      out += "&amp;";
    } else if (c.code == '<') {
      out += "&lt;";
    } else if (c.code == '>') {
      out += "&gt;";
    } else if (c.code == '"') {
      out += "&quot;";
    } else if (c.code == '\'') {
      out += "&#39;";
    } else {
      out += text.substr(i, c.size);
    }
    i += c.size;
  }
  return out;
}

std::string bar_chart(const std::string& label, const std::vector<Bar>& bars, double axis_min,
                      double axis_max) {
  LOZA_CHECK(axis_max > axis_min, axis_min, axis_max);
  constexpr double kRowHeight = 22, kBarHeight = 14, kLabelWidth = 118, kNumberWidth = 46;
  constexpr double kBarWidth = 420;
  const Axis x{axis_min, axis_max, kLabelWidth, kBarWidth - kNumberWidth};
  std::string body;
  double top = 2;
  for (const Bar& bar : bars) {
    const double middle = top + kRowHeight / 2;
    const double end = x.at(std::clamp(bar.value, axis_min, axis_max));
    body += text(kLabelWidth - 8, middle + 4, "end", bar.label, "name");
    body += rect(x.begin, middle - kBarHeight / 2, std::max(end - x.begin, 1.0), kBarHeight,
                 bar.css_class, bar.label + ": " + bar.value_text);
    if (bar.low < bar.high) {
      body += whisker(x.at(std::clamp(bar.low, axis_min, axis_max)),
                      x.at(std::clamp(bar.high, axis_min, axis_max)), middle);
    }
    body += text(kBarWidth - 2, middle + 4, "end", bar.value_text, "value");
    top += kRowHeight;
  }
  body += line(x.begin, 2, x.begin, top, "axis");
  return svg(label, kBarWidth, top + 4, body);
}

std::string column_chart(const std::string& label, const std::vector<Column>& columns,
                         const std::string& x_title, const std::string& y_title) {
  double low = 0, high = 0;
  for (const Column& column : columns) {
    low = std::min(low, column.value);
    high = std::max(high, column.value);
    for (const double dot : column.dots) {
      low = std::min(low, dot);
      high = std::max(high, dot);
    }
  }
  const std::vector<double> ticks = round_ticks(low, high);
  const double width = std::max(kColumnsWidth, 70 + 16 * static_cast<double>(columns.size()));
  constexpr double kHeight = 260;
  const Axis y{ticks.front(), ticks.back(), kHeight - 44, 24};
  const Axis x{0, std::max(1.0, static_cast<double>(columns.size())), 50, width - 8};
  std::string body = frame(x, y, ticks, x_title, y_title);
  const double step = x.at(1) - x.at(0);
  const std::size_t label_every = 1 + columns.size() / 26;
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const Column& column = columns[i];
    const double middle = x.at(static_cast<double>(i) + 0.5);
    const double top = y.at(std::max(column.value, 0.0));
    const double bottom = y.at(std::min(column.value, 0.0));
    const std::string hint = column.label + ": " + number(column.value);
    body += rect(middle - step * 0.36, top, step * 0.72, std::max(bottom - top, 1.0),
                 column.css_class, hint);
    for (const double dot : column.dots) {
      body += circle(middle, y.at(dot), 2.2, "dot", column.label + ": " + number(dot));
    }
    if (i % label_every == 0) body += text(middle, kHeight - 28, "middle", column.label);
  }
  return svg(label, width, kHeight, body);
}

std::string line_chart(const LineChart& chart) {
  const bool is_log = chart.x_axis == LineChart::XAxis::kLogarithmic;
  LOZA_CHECK(!is_log || !chart.x_ticks.empty());
  double high = 0;
  for (const Line& line : chart.lines) {
    for (const auto& point : line.points) high = std::max(high, point.second);
  }
  const std::vector<double> y_ticks = round_ticks(0, high);
  const Axis y{0, y_ticks.back(), chart.height - 44, 24};
  const std::vector<std::pair<double, std::string>> x_ticks =
      chart.x_ticks.empty() ? round_places(chart.lines) : chart.x_ticks;
  const auto along = [is_log](double place) { return is_log ? std::log2(place) : place; };
  const double first = along(x_ticks.front().first), last = along(x_ticks.back().first);
  const Axis x{first, std::max(last, first + 1), 56, chart.width - chart.label_width};

  std::string body = frame(x, y, y_ticks, chart.x_title, chart.y_title);
  for (const auto& [place, name] : x_ticks) {
    body += text(x.at(along(place)), chart.height - 28, "middle", name);
  }
  std::vector<double> label_y;
  for (const Line& line : chart.lines) {
    label_y.push_back(line.points.empty() ? y.begin : y.at(line.points.back().second));
  }
  label_y = spread_labels(label_y);
  for (std::size_t i = 0; i < chart.lines.size(); ++i) {
    const Line& drawn = chart.lines[i];
    std::vector<std::pair<double, double>> pixels;
    for (const auto& [place, value] : drawn.points) {
      pixels.emplace_back(x.at(along(place)), y.at(value));
    }
    body += path_through(pixels, "line " + drawn.css_class);
    if (chart.has_dots) body += dots_at(pixels, drawn);
    body += text(x.end + 10, label_y[i] + 4, "start", drawn.label, "name ink-" + drawn.css_class);
  }
  return svg(chart.label, chart.width, chart.height, body);
}

std::string chart_style() {
  return ":root { color-scheme: light dark;" + variables(&Colour::light) +
         " }\n@media (prefers-color-scheme: dark) { :root {" + variables(&Colour::dark) + " } }" +
         std::string(kRules) + class_rules();
}

std::string svg_file(const std::string& chart) {
  const std::string_view element = "<svg ";
  LOZA_CHECK(chart.starts_with(element));
  std::string style = std::string(kRules) + class_rules();
  for (const Colour& colour : kColours) {
    const std::string variable = fmt::format("var(--{})", colour.name);
    for (auto at = style.find(variable); at != style.npos; at = style.find(variable, at)) {
      style.replace(at, variable.size(), colour.light);
    }
  }
  const std::size_t inside = chart.find('>') + 1;
  return fmt::format(R"(<svg xmlns="http://www.w3.org/2000/svg" {}<style>{}</style>)"
                     R"(<rect width="100%" height="100%" fill="#ffffff"/>{})",
                     chart.substr(element.size(), inside - element.size()), style,
                     chart.substr(inside));
}

}  // namespace loza
