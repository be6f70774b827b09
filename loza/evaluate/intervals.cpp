#include "loza/evaluate/intervals.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

#include "loza/base/check.h"
#include "loza/base/random.h"

namespace loza {
namespace {

constexpr double kZ95 = 1.959963984540054;  // the standard normal's 97.5 % point
constexpr std::int64_t kNumResamples = 2000;
constexpr std::uint64_t kBootstrapSeed = 95;

double ratio(std::span<const double> numerators, std::span<const double> weights) {
  return std::accumulate(numerators.begin(), numerators.end(), 0.0) /
         std::accumulate(weights.begin(), weights.end(), 0.0);
}

double resampled_ratio(std::span<const double> numerators, std::span<const double> weights,
                       Random& random) {
  double numerator = 0, weight = 0;
  for (std::size_t i = 0; i < numerators.size(); ++i) {
    const auto drawn =
        static_cast<std::size_t>(random.below(static_cast<std::int64_t>(numerators.size())));
    numerator += numerators[drawn];
    weight += weights[drawn];
  }
  return numerator / weight;
}

}  // namespace

Interval wilson_interval(std::int64_t hits, std::int64_t n) {
  LOZA_CHECK(n >= 1 && hits >= 0 && hits <= n, hits, n);
  const double count = static_cast<double>(n);
  const double share = static_cast<double>(hits) / count;
  const double z2 = kZ95 * kZ95;
  const double centre = (share + z2 / (2 * count)) / (1 + z2 / count);
  const double half =
      kZ95 * std::sqrt(share * (1 - share) / count + z2 / (4 * count * count)) / (1 + z2 / count);
  // The formula reaches the ends exactly, but for rounding.
  const double low = hits == 0 ? 0 : centre - half;
  const double high = hits == n ? 1 : centre + half;
  return {share, low, high};
}

Interval bootstrap_ratio(std::span<const double> numerators, std::span<const double> weights) {
  LOZA_CHECK(!numerators.empty() && numerators.size() == weights.size(), numerators.size(),
             weights.size());
  LOZA_CHECK(std::all_of(weights.begin(), weights.end(), [](double w) { return w > 0; }));
  Random random(kBootstrapSeed);
  std::vector<double> ratios(kNumResamples);
  for (double& drawn : ratios) drawn = resampled_ratio(numerators, weights, random);
  std::sort(ratios.begin(), ratios.end());
  constexpr auto kTail = static_cast<std::size_t>(kNumResamples / 40);  // 2.5 % on each side
  return {ratio(numerators, weights), ratios[kTail], ratios[kNumResamples - 1 - kTail]};
}

}  // namespace loza
