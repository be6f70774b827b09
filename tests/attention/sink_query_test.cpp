#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "loza/attention/attention.h"
#include "loza/attention/reference/torch_ops.h"
#include "tests/attention/two_ways.h"
#include "tests/support/case_count.h"

namespace loza::attention {
namespace {

std::vector<BlockPattern> patterns() {
  return {{8, 1, 3}, {8, 2, 1}, {8, 0, 4}, BlockPattern::full(8)};
}

// Kernels and torch operations, which know sink queries each in its own way.
TEST(SinkQueries, KernelsAndTorchOperationsAgree) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const BlockPattern& pattern : patterns()) {
      const testing::Call call = testing::random_call(dtype, {3, 100, 0, 37}, 6, 2, 16, 8);
      const testing::Results kernels = testing::run(call, attend, pattern, dtype, at::kCPU);
      const testing::Results exact =
          testing::run(call, torch_ops::attend, pattern, at::kDouble, at::kCPU);
      testing::expect_close(kernels, exact,
                            dtype == at::kDouble  ? 1e-12
                            : dtype == at::kFloat ? 2e-5
                                                  : 2e-2);
      ++loza::testing::case_count();
    }
  }
}

TEST(SinkQueries, GradientsAreFiniteDifferences) {
  const BlockPattern pattern{4, 1, 2};
  testing::Call call = testing::random_call(at::kDouble, {30, 13}, 2, 1, 3, 5);
  const testing::Results results = testing::run(call, attend, pattern, at::kDouble, at::kCPU);
  const at::NoGradGuard no_grad;
  const auto loss = [&] {
    return (attend({call.q, call.sink_q}, call.k, call.v, call.sequences, pattern, call.scale) *
            call.d_out)
        .sum()
        .item<double>();
  };
  const auto expect_derivative = [&](const at::Tensor& x, const at::Tensor& gradient) {
    const at::Tensor flat = x.view(-1), of = gradient.reshape(-1);
    for (std::int64_t i = 0; i < flat.numel(); ++i) {
      constexpr double h = 1e-5;
      const double value = flat[i].item<double>();
      flat[i] = value + h;
      const double above = loss();
      flat[i] = value - h;
      const double below = loss();
      flat[i] = value;
      ASSERT_NEAR((above - below) / (2 * h), of[i].item<double>(), 1e-8) << i;
    }
  };
  expect_derivative(call.q, results.d_q);
  expect_derivative(call.sink_q, results.d_sink_q);
  expect_derivative(call.k, results.d_k);
  expect_derivative(call.v, results.d_v);
}

}  // namespace
}  // namespace loza::attention
