#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>

namespace loza::cpu {

// What a query row knows after some of its keys, in the base-2 domain:
//   sum = sum_j 2^(s_j - max),  out = sum_j 2^(s_j - max) v_j,  s_j = scale * log2(e) * q.k_j.
// A row that has seen nothing has sum 0, out 0 and any max.
struct SoftmaxState {
  float max = std::numeric_limits<float>::lowest();
  float sum = 0;
  float* out = nullptr;  // [size], owned by whoever made the state

  bool is_empty() const { return sum == 0; }
  // By what `out` is multiplied at the end.
  float factor() const { return is_empty() ? 0.0f : 1.0f / sum; }
  // Natural logarithm of sum_j exp(scale * q.k_j).
  float lse() const {
    if (is_empty()) return -std::numeric_limits<float>::infinity();
    return static_cast<float>((static_cast<double>(max) + std::log2(static_cast<double>(sum))) *
                              std::numbers::ln2);
  }
};

// Adds `part`, other keys of the same row, to `into`. Either may be empty: what an empty state
// holds is not looked at, and merging with it changes no bit.
inline void merge(const SoftmaxState& part, std::int64_t size, SoftmaxState& into) {
  if (part.is_empty()) return;
  if (into.is_empty()) {
    into.max = part.max;
    into.sum = part.sum;
    for (std::int64_t i = 0; i < size; ++i) into.out[i] = part.out[i];
    return;
  }
  const float max = std::fmax(into.max, part.max);
  const float keep = std::exp2(into.max - max);
  const float add = std::exp2(part.max - max);
  into.max = max;
  into.sum = keep * into.sum + add * part.sum;
  for (std::int64_t i = 0; i < size; ++i) {
    into.out[i] = keep * into.out[i] + add * part.out[i];
  }
}

}  // namespace loza::cpu
