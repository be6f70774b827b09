#include "cli/loss_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "loza/evaluate/svg_chart.h"

namespace loza::cli {
namespace {

using Points = std::vector<std::pair<double, double>>;  // step, loss

std::map<std::string, Points> points_by_kind(const std::vector<StepReport>& steps) {
  std::map<std::string, Points> kinds;
  for (const StepReport& step : steps) {
    if (step.skipped) continue;
    for (const auto& [kind, loss] : step.loss_by_kind) {
      kinds[kind].emplace_back(static_cast<double>(step.step), loss);
    }
  }
  return kinds;
}

// Each loss with its last few: single documents are noisy.
Points smoothed(const Points& points) {
  const std::size_t width = std::max<std::size_t>(1, points.size() / 40);
  Points means;
  double sum = 0;
  for (std::size_t i = 0; i < points.size(); ++i) {
    sum += points[i].second;
    if (i >= width) sum -= points[i - width].second;
    means.emplace_back(points[i].first, sum / static_cast<double>(std::min(i + 1, width)));
  }
  return means;
}

}  // namespace

std::string loss_plot(const std::vector<StepReport>& steps) {
  LineChart chart{.label = "Loss by step",
                  .x_title = "step",
                  .y_title = "nats a token",
                  .width = 900,
                  .height = 420,
                  .label_width = 170};
  for (const auto& [kind, points] : points_by_kind(steps)) {
    const Points means = smoothed(points);
    const auto series = static_cast<int>(chart.lines.size()) % kNumSeriesClasses;
    chart.lines.push_back({fmt::format("{} {:.3g}", kind, means.back().second),
                           fmt::format("series-{}", series), means});
  }
  return svg_file(line_chart(chart));
}

}  // namespace loza::cli
