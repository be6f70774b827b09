#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

// Charts as inline SVG for a page that brings chart_style(), or made files of their own by
// svg_file(). Colours are CSS variables by class: "dense", "zigzag", "other" and "grey" for what
// those mean, "series-0" to "series-5" for any lines, so that one chart serves light and dark.
// Every chart is one <svg> element; all text in it is escaped.
namespace loza {

// Text for HTML or SVG content and double-quoted attributes. What is not UTF-8, and control
// characters that XML forbids, become U+FFFD.
std::string escape_markup(std::string_view text);

// One bar to the right, with a whisker where low < high, and its number at the end.
struct Bar {
  std::string label;
  std::string css_class;
  double value = 0, low = 0, high = 0;
  std::string value_text;
};
// Bars from `axis_min`, where they start, to `axis_max`; the label is what a screen reader says.
std::string bar_chart(const std::string& label, const std::vector<Bar>& bars, double axis_min,
                      double axis_max);

// One column upwards, with a dot for each of `dots`.
struct Column {
  std::string label;
  std::string css_class;
  double value = 0;
  std::vector<double> dots;
};
// Columns side by side over an axis that covers every value and dot, and 0.
std::string column_chart(const std::string& label, const std::vector<Column>& columns,
                         const std::string& x_title, const std::string& y_title);

// One line; points [x, y] with x rising. Its label stands at its end.
struct Line {
  std::string label;
  std::string css_class;
  std::vector<std::pair<double, double>> points;
};
struct LineChart {
  enum class XAxis { kLinear, kLogarithmic };

  std::string label;  // what a screen reader says
  std::vector<Line> lines = {};
  std::string x_title = "", y_title = "";
  XAxis x_axis = XAxis::kLinear;
  // Places and names. A logarithmic axis needs them; a linear one has round numbers without.
  std::vector<std::pair<double, std::string>> x_ticks = {};
  bool has_dots = false;                               // one at each point, which says its value
  double width = 400, height = 260, label_width = 84;  // SVG units; labels are at the right
};
// The y axis begins at 0.
std::string line_chart(const LineChart& chart);

constexpr int kNumSeriesClasses = 6;

// The style sheet that charts need, with the variables of their colours, which a page may use:
// --bg, --panel, --ink, --soft, --grid, --yes, --no and those of the classes.
std::string chart_style();

// A chart as an SVG file that brings its style: on white, without CSS variables, which not every
// viewer knows.
std::string svg_file(const std::string& chart);

}  // namespace loza
