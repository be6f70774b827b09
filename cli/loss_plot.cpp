#include "cli/loss_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <utility>

#include "loza/evaluate/svg_chart.h"

namespace loza::cli {
namespace {

constexpr double kWidth = 900, kHeight = 420;
constexpr double kLeft = 60, kRight = 730, kTop = 24, kBottom = 380;
constexpr std::array<const char*, 6> kColours = {"#0969da", "#b35900", "#1a7f37",
                                                 "#8250df", "#cf222e", "#57606a"};

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

struct Scale {
  double first_step, last_step, high;
  double x(double step) const {
    return kLeft + (kRight - kLeft) * (step - first_step) / std::max(1.0, last_step - first_step);
  }
  double y(double loss) const { return kBottom - (kBottom - kTop) * loss / high; }
};

std::string grid(const Scale& scale) {
  std::string lines;
  for (int i = 0; i <= 4; ++i) {
    const double loss = scale.high * i / 4;
    lines += fmt::format(
        R"(<path d="M{} {:.1f} H{}" stroke="#dde1e6"/><text x="{}" y="{:.1f}" text-anchor="end">{:.3g}</text>)",
        kLeft, scale.y(loss), kRight, kLeft - 8, scale.y(loss) + 4, loss);
    const double step = scale.first_step + (scale.last_step - scale.first_step) * i / 4;
    lines += fmt::format(R"(<text x="{:.1f}" y="{}" text-anchor="middle">{:.0f}</text>)",
                         scale.x(step), kBottom + 18, step);
  }
  return lines +
         fmt::format(
             R"(<text x="{}" y="14">nats a token</text><text x="{}" y="{}" text-anchor="end">step</text>)",
             kLeft, kRight, kBottom + 34);
}

std::string line(const Points& points, const Scale& scale, const char* colour) {
  std::string path;
  for (const auto& [step, loss] : points) {
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : " L", scale.x(step), scale.y(loss));
  }
  return fmt::format(R"(<path d="{}" fill="none" stroke="{}" stroke-width="2"/>)", path, colour);
}

}  // namespace

std::string loss_plot(const std::vector<StepReport>& steps) {
  std::map<std::string, Points> kinds = points_by_kind(steps);
  Scale scale{static_cast<double>(steps.front().step), static_cast<double>(steps.back().step), 0};
  for (auto& [kind, points] : kinds) {
    points = smoothed(points);
    for (const auto& [step, loss] : points) scale.high = std::max(scale.high, loss);
  }
  if (scale.high <= 0) scale.high = 1;

  std::string body = grid(scale);
  std::size_t index = 0;
  for (const auto& [kind, points] : kinds) {
    const char* colour = kColours[index % kColours.size()];
    body += line(points, scale, colour);
    body += fmt::format(R"(<text x="{}" y="{}" fill="{}">{} {:.3g}</text>)", kRight + 14,
                        kTop + 20 * static_cast<double>(index + 1), colour, escape_markup(kind),
                        points.back().second);
    ++index;
  }
  return fmt::format(
      R"(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif" font-size="12" fill="#24292f"><title>Loss by step</title><rect width="100%" height="100%" fill="#ffffff"/>{}</svg>)"
      "\n",
      kWidth, kHeight, body);
}

}  // namespace loza::cli
