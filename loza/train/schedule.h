#pragma once

#include <cstdint>

namespace loza {

// The learning rate of a step: a linear rise over the first warmup_steps, the peak, and a
// fall over the last decay_steps towards final_ratio * peak.
//
//      peak     ________
//              /        \            step 0 has peak / warmup_steps (never 0);
//             /          \__         the step after the last would have final_ratio * peak.
//            warm-up    decay
struct Schedule {
  enum class Decay { kConstant, kLinear, kCosine };

  double peak = 1e-3;
  std::int64_t num_steps = 0;
  std::int64_t warmup_steps = 0;
  Decay decay = Decay::kConstant;
  std::int64_t decay_steps = 0;  // at most num_steps - warmup_steps
  double final_ratio = 0;

  // REQUIRES: 0 <= step < num_steps.
  double at(std::int64_t step) const;
};

}  // namespace loza
