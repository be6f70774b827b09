#include "loza/engine/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "loza/base/check.h"
#include "loza/base/error.h"

namespace loza {
namespace {

bool all_finite(std::span<const float> logits) {
  constexpr std::uint32_t kExponent = 0x7F800000u;
  std::uint32_t broken = 0;
  for (const float logit : logits) {
    broken |= (std::bit_cast<std::uint32_t>(logit) & kExponent) == kExponent ? 1u : 0u;
  }
  return broken == 0;
}

// The largest logit; several running maxima so that the loop vectorises.
float max_of(std::span<const float> logits) {
  constexpr std::size_t kLanes = 16;
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, logits[0]);
  std::size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = lanes[lane] < logits[i + lane] ? logits[i + lane] : lanes[lane];
    }
  }
  float max = *std::max_element(lanes, lanes + kLanes);
  for (; i < logits.size(); ++i) max = std::max(max, logits[i]);
  return max;
}

}  // namespace

void check_sampling(const SamplingOptions& options, const std::string& place) {
  if (!std::isfinite(options.temperature) || options.temperature < 0) {
    throw_usage(place + ": temperature", "a number >= 0", fmt::format("{}", options.temperature));
  }
  if (options.top_k < 0) {
    throw_usage(place + ": top-k", "an integer >= 0", fmt::format("{}", options.top_k));
  }
  if (!(options.top_p >= 0 && options.top_p <= 1)) {
    throw_usage(place + ": top-p", "a number in [0, 1]", fmt::format("{}", options.top_p));
  }
  if (!(options.min_p >= 0 && options.min_p <= 1)) {
    throw_usage(place + ": min-p", "a number in [0, 1]", fmt::format("{}", options.min_p));
  }
}

std::optional<std::int64_t> Sampler::sample(std::span<const float> logits) {
  LOZA_CHECK(!logits.empty());
  if (!all_finite(logits)) return std::nullopt;
  const float max_logit = max_of(logits);
  if (options_.temperature == 0) {
    return std::find(logits.begin(), logits.end(), max_logit) - logits.begin();
  }

  num_ranked_ = 0;
  candidates_.resize(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    candidates_[i] = {logits[i], static_cast<std::int32_t>(i), 0};
  }
  keep_top_k();
  weigh(max_logit);
  keep_top_p();
  keep_min_p();
  return draw();
}

void Sampler::rank(std::size_t n) {
  const auto more_likely = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  };
  n = std::min(n, candidates_.size());
  if (n <= num_ranked_) return;
  const auto begin = candidates_.begin() + static_cast<std::ptrdiff_t>(num_ranked_);
  const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(n);
  std::nth_element(begin, end - 1, candidates_.end(), more_likely);
  std::sort(begin, end, more_likely);
  num_ranked_ = n;
}

void Sampler::keep_top_k() {
  const auto k = static_cast<std::size_t>(options_.top_k);
  if (k == 0 || k >= candidates_.size()) return;
  rank(k);
  candidates_.resize(k);
}

void Sampler::weigh(float max_logit) {
  for (Candidate& candidate : candidates_) {
    // 0 / temperature is 0 however small the temperature is, so the largest weight is 1.
    const double below = static_cast<double>(candidate.logit) - static_cast<double>(max_logit);
    candidate.weight = std::exp(below / options_.temperature);
  }
}

void Sampler::keep_top_p() {
  if (options_.top_p == 1) return;
  const double enough = options_.top_p * total_weight();
  // Usually few tokens have nearly all of the weight: ranks only as many as are looked at.
  constexpr std::size_t kFirstRanked = 64, kGrowth = 8;
  double sum = 0;
  std::size_t kept = 0;
  while (kept < candidates_.size()) {
    if (kept == num_ranked_) rank(std::max(kFirstRanked, num_ranked_ * kGrowth));
    sum += candidates_[kept++].weight;
    if (sum >= enough) break;
  }
  candidates_.resize(kept);
}

void Sampler::keep_min_p() {
  if (options_.min_p == 0) return;
  std::erase_if(candidates_,
                [&](const Candidate& candidate) { return candidate.weight < options_.min_p; });
}

double Sampler::total_weight() const {
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  return total;
}

std::int64_t Sampler::draw() {
  const double target = random_.uniform() * total_weight();
  double sum = 0;
  std::int64_t last_possible = candidates_.front().id;
  for (const Candidate& candidate : candidates_) {
    if (candidate.weight == 0) continue;
    sum += candidate.weight;
    last_possible = candidate.id;
    if (target < sum) break;
  }
  return last_possible;  // rounding may leave the target at the end
}

}  // namespace loza
