#include "loza/evaluate/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "loza/base/check.h"
#include "loza/base/utf8.h"

namespace loza {
namespace {

// Widths of charts with axes, in SVG units: the page shows them at about this size.
constexpr double kColumnsWidth = 540, kLinesWidth = 400;

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
  if (std::abs(value) >= 1000) {
    const auto whole = static_cast<std::int64_t>(std::llround(value));
    return fmt::format("{},{:03}", whole / 1000, std::abs(whole % 1000));
  }
  return fmt::format("{:.4g}", value);
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

std::string line_chart(const std::string& label, const std::vector<Line>& lines,
                       const std::vector<std::pair<double, std::string>>& x_ticks,
                       const std::string& x_title, const std::string& y_title) {
  LOZA_CHECK(!x_ticks.empty());
  double high = 0;
  for (const Line& line : lines) {
    for (const auto& point : line.points) high = std::max(high, point.second);
  }
  const std::vector<double> ticks = round_ticks(0, high);
  constexpr double kHeight = 260, kLabelWidth = 84;
  const Axis y{0, ticks.back(), kHeight - 44, 24};
  const double first = std::log2(x_ticks.front().first), last = std::log2(x_ticks.back().first);
  const Axis x{first, std::max(last, first + 1), 56, kLinesWidth - kLabelWidth};
  std::string body = frame(x, y, ticks, x_title, y_title);
  for (const auto& [place, name] : x_ticks) {
    body += text(x.at(std::log2(place)), kHeight - 28, "middle", name);
  }
  std::vector<double> label_y;
  for (const Line& line : lines) {
    label_y.push_back(line.points.empty() ? y.begin : y.at(line.points.back().second));
  }
  label_y = spread_labels(label_y);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    std::string path, dots;
    for (const auto& [place, value] : lines[i].points) {
      const double px = x.at(std::log2(place)), py = y.at(value);
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : " L", px, py);
      dots +=
          circle(px, py, 3.5, "fill " + lines[i].css_class, lines[i].label + ": " + number(value));
    }
    body += fmt::format(R"(<path d="{}" class="line {}"/>)", path, lines[i].css_class) + dots;
    body +=
        text(x.end + 10, label_y[i] + 4, "start", lines[i].label, "name ink-" + lines[i].css_class);
  }
  return svg(label, kLinesWidth, kHeight, body);
}

}  // namespace loza
