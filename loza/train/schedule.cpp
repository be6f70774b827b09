#include "loza/train/schedule.h"

#include <cmath>
#include <numbers>

#include "loza/base/check.h"

namespace loza {

double Schedule::at(std::int64_t step) const {
  LOZA_CHECK(step >= 0 && step < num_steps, step, num_steps);
  LOZA_CHECK(warmup_steps >= 0 && decay_steps >= 0 && warmup_steps + decay_steps <= num_steps,
             warmup_steps, decay_steps, num_steps);
  if (step < warmup_steps) {
    return peak * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  }
  const std::int64_t decay_begin = num_steps - decay_steps;
  if (decay == Decay::kConstant || step < decay_begin) return peak;
  const double done = static_cast<double>(step - decay_begin) / static_cast<double>(decay_steps);
  const double left =
      decay == Decay::kLinear ? 1 - done : 0.5 * (1 + std::cos(std::numbers::pi * done));
  return peak * (final_ratio + (1 - final_ratio) * left);
}

}  // namespace loza
