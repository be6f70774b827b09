#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

// The one comparison of numeric results: first places of inf and NaN, then the largest error
// against that of the same formula in plain low precision, then the cosine. A failure says
// where the worst number is and how to run the case again.
namespace loza::testing {

struct Tolerance {
  double atol = 0;
  double factor = 2;  // of the low-precision error
  double cosine = std::numeric_limits<double>::infinity();
};

// The line that reruns the test that is running now.
inline std::string rerun_line() {
  const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
  if (info == nullptr) return "";
  return fmt::format("rerun: --gtest_filter='{}.{}'", info->test_suite_name(), info->name());
}

// 1 - cosine of the angle between a and b, over their finite numbers; 0 for zeros.
inline double cosine_distance(const std::vector<double>& a, const std::vector<double>& b) {
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) continue;
    ab += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return aa == 0 || bb == 0 ? 0 : 1 - ab / std::sqrt(aa * bb);
}

inline double largest_magnitude(const std::vector<double>& values) {
  double largest = 0;
  for (const double value : values) {
    if (std::isfinite(value)) largest = std::fmax(largest, std::fabs(value));
  }
  return largest;
}

// Passes if  max|out - ref| <= factor * max|low - ref| + atol,  and so on as said above.
inline ::testing::AssertionResult is_close(const std::vector<double>& out,
                                           const std::vector<double>& ref,
                                           const std::vector<double>& low, Tolerance tolerance) {
  const auto fail = [] { return ::testing::AssertionFailure(); };
  if (out.size() != ref.size() || low.size() != ref.size()) {
    return fail() << "sizes differ: " << out.size() << ", " << ref.size() << ", " << low.size();
  }
  double worst = 0, low_worst = 0;
  std::size_t worst_idx = 0;
  for (std::size_t i = 0; i < ref.size(); ++i) {
    if (std::isfinite(out[i]) != std::isfinite(ref[i])) {
      return fail() << fmt::format("[{}]: {} where the reference has {}; {}", i, out[i], ref[i],
                                   rerun_line());
    }
    if (!std::isfinite(ref[i])) {
      // NaN and inf may stand for each other, inf and -inf may not.
      if (out[i] == -ref[i]) {
        return fail() << fmt::format("[{}]: {}, expected {}; {}", i, out[i], ref[i], rerun_line());
      }
      continue;
    }
    if (std::fabs(out[i] - ref[i]) > worst) {
      worst = std::fabs(out[i] - ref[i]);
      worst_idx = i;
    }
    if (std::isfinite(low[i])) low_worst = std::fmax(low_worst, std::fabs(low[i] - ref[i]));
  }
  const double limit = tolerance.factor * low_worst + tolerance.atol;
  if (!(worst <= limit)) {
    return fail() << fmt::format(
               "[{}]: {}, expected {}; error {:.3g}, allowed {:.3g} (low precision: {:.3g}); {}",
               worst_idx, out[worst_idx], ref[worst_idx], worst, limit, low_worst, rerun_line());
  }
  const double distance = cosine_distance(out, ref);
  if (!(distance < tolerance.cosine)) {
    return fail() << fmt::format("cosine distance {:.3g}, allowed {:.3g}; {}", distance,
                                 tolerance.cosine, rerun_line());
  }
  return ::testing::AssertionSuccess();
}

}  // namespace loza::testing
