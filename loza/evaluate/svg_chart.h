#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

// Charts as inline SVG for a page that brings the style: colours are the page's CSS variables,
// by class ("dense", "zigzag", "other", "grey"), so that one chart serves light and dark.
// Every function returns one <svg> element; all text in it is escaped.
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

// One line; points [x, y] with x rising.
struct Line {
  std::string label;
  std::string css_class;
  std::vector<std::pair<double, double>> points;
};
// Lines over a logarithmic x axis with a tick at each of `x_ticks` (place, name), and a y axis
// from 0. A line's label stands at its end.
std::string line_chart(const std::string& label, const std::vector<Line>& lines,
                       const std::vector<std::pair<double, std::string>>& x_ticks,
                       const std::string& x_title, const std::string& y_title);

}  // namespace loza
