#include "loza/calibrate/select.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "loza/base/check.h"
#include "loza/base/error.h"

namespace loza {
namespace {

// Module indices by (alpha, index), ascending.
std::vector<std::size_t> ascending(const std::vector<double>& alpha) {
  std::vector<std::size_t> order(alpha.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return alpha[a] < alpha[b]; });
  return order;
}

// Ranks from 0; equal values share the mean of their ranks.
std::vector<double> mean_ranks(const std::vector<double>& values) {
  const std::vector<std::size_t> order = ascending(values);
  std::vector<double> ranks(values.size());
  for (std::size_t begin = 0; begin < order.size();) {
    std::size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (std::size_t i = begin; i < end; ++i) {
      ranks[order[i]] = static_cast<double>(begin + end - 1) / 2;
    }
    begin = end;
  }
  return ranks;
}

double pearson(const std::vector<double>& a, const std::vector<double>& b) {
  const auto mean = [](const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  };
  const double mean_a = mean(a), mean_b = mean(b);
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean_a) * (b[i] - mean_b);
    aa += (a[i] - mean_a) * (a[i] - mean_a);
    bb += (b[i] - mean_b) * (b[i] - mean_b);
  }
  if (aa == 0 || bb == 0) return std::numeric_limits<double>::quiet_NaN();
  return ab / std::sqrt(aa * bb);
}

}  // namespace

std::int64_t Selection::num_streaming() const {
  return std::count(streaming.begin(), streaming.end(), true);
}

Selection select_lowest(const std::vector<double>& alpha, double sparsity) {
  if (!(sparsity >= 0 && sparsity <= 1)) {
    throw_usage("--sparsity", "a share from 0 to 1", fmt::format("{}", sparsity));
  }
  for (const double value : alpha) LOZA_CHECK(std::isfinite(value), value);
  // 25 * 0.58 is 14.499999999999998 in binary and means 14.5.
  constexpr double kDecimalSlack = 1e-9;
  const auto num_streaming = static_cast<std::size_t>(
      std::floor(static_cast<double>(alpha.size()) * sparsity + 0.5 + kDecimalSlack));
  const std::vector<std::size_t> order = ascending(alpha);
  Selection selection{std::vector<bool>(alpha.size(), false)};
  for (std::size_t i = 0; i < num_streaming; ++i) selection.streaming[order[i]] = true;

  const bool has_cut = num_streaming > 0 && num_streaming < alpha.size();
  if (has_cut && alpha[order[num_streaming - 1]] == alpha[order[num_streaming]]) {
    selection.num_tied_at_cut = std::count(alpha.begin(), alpha.end(), alpha[order[num_streaming]]);
  }
  return selection;
}

AttentionPlan select_plan(const std::vector<double>& alpha, double sparsity,
                          const BlockPattern& pattern, std::string origin) {
  return AttentionPlan::from_choice(select_lowest(alpha, sparsity).streaming, pattern,
                                    std::move(origin));
}

double rank_correlation(const std::vector<double>& a, const std::vector<double>& b) {
  LOZA_CHECK(a.size() == b.size(), a.size(), b.size());
  if (a.size() < 2) return std::numeric_limits<double>::quiet_NaN();
  return pearson(mean_ranks(a), mean_ranks(b));
}

double full_overlap(const Selection& a, const Selection& b) {
  LOZA_CHECK(a.streaming.size() == b.streaming.size(), a.streaming.size(), b.streaming.size());
  LOZA_CHECK(a.num_streaming() == b.num_streaming(), a.num_streaming(), b.num_streaming());
  std::size_t num_full = 0, num_shared = 0;
  for (std::size_t i = 0; i < a.streaming.size(); ++i) {
    if (a.streaming[i]) continue;
    ++num_full;
    if (!b.streaming[i]) ++num_shared;
  }
  return num_full == 0 ? 1.0 : static_cast<double>(num_shared) / static_cast<double>(num_full);
}

}  // namespace loza
