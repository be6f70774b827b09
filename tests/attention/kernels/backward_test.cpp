#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "loza/attention/cpu/cpu.h"
#include "loza/attention/reference/reference.h"
#include "tests/attention/kernels/backward_case.h"
#include "tests/attention/kernels/forward_case.h"
#include "tests/attention/kernels/instruction_sets.h"
#include "tests/attention/kernels/low_precision.h"
#include "tests/support/case_count.h"
#include "tests/support/compare.h"

namespace loza::testing {
namespace {

using Layout = Operand::Layout;

std::vector<Shape> backward_shapes() {
  const std::vector<Heads> heads{{1, 1, 64, 64}, {6, 2, 64, 64}, {2, 2, 128, 128}, {2, 2, 192, 128},
                                 {6, 3, 33, 17}, {4, 1, 32, 48}, {2, 1, 1, 1}};
  std::vector<Shape> shapes;
  std::size_t next = 0;
  for (const std::int64_t len : {1, 2, 15, 16, 17, 31, 33, 112, 128, 129, 145, 257}) {
    for (const BlockPattern& pattern : patterns_of(16)) {
      for (const DType dtype : {DType::kBF16, DType::kF32}) {
        const Layout layout = next % 3 == 0 ? Layout::kGaps : Layout::kPacked;
        shapes.push_back(with_heads({dtype, pattern, {{len, len}}, 1, 1, 64, 64, layout},
                                    heads[next++ % heads.size()]));
      }
    }
  }
  for (const std::int64_t block : {1, 5, 24, 32, 64, 136, 192}) {
    for (const BlockPattern& pattern : patterns_of(block)) {
      const DType dtype = next++ % 2 == 0 ? DType::kBF16 : DType::kF32;
      shapes.push_back({dtype, pattern, {{150, 150}, {60, 210}}, 2, 1, 64, 64, Layout::kPacked});
    }
  }
  for (const std::int64_t len : {127, 128, 129, 897, 1025, 1153}) {
    for (const BlockPattern& pattern : {BlockPattern{}, BlockPattern::full()}) {
      const DType dtype = next++ % 2 == 0 ? DType::kBF16 : DType::kF32;
      shapes.push_back({dtype, pattern, {{len, len}}, 1, 1, 64, 64, Layout::kPacked});
    }
  }
  // Mixed batches: chunks, and sequences without queries, keys, positions, or any of them.
  for (const BlockPattern& pattern : patterns_of(16)) {
    for (const DType dtype : {DType::kBF16, DType::kF32}) {
      shapes.push_back({dtype, pattern, {{0, 0}}, 2, 1, 16, 16, Layout::kPacked});
      shapes.push_back({dtype,
                        pattern,
                        {{0, 30}, {5, 0}, {40, 37}, {0, 0}, {33, 300}, {145, 145}},
                        3,
                        1,
                        32,
                        24,
                        Layout::kGaps});
    }
  }
  return shapes;
}

class BackwardAgrees : public ::testing::TestWithParam<Shape> {};

TEST_P(BackwardAgrees, WithTheReference) {
  BackwardCase c(GetParam(), 2);
  BackwardCase exact = c.in_fp64();
  reference::attend_backward(exact.backward_params());
  const std::vector<double> d_q = exact.d_q.values(), d_k = exact.d_k.values(),
                            d_v = exact.d_v.values();
  LowPrecision low(c.params());
  low.backward(c.d_out.view());
  const bool is_bf16 = c.shape.dtype == DType::kBF16;
  // In a sum that cancels, as with few keys, what is left is the rounding of its terms.
  const auto tolerance = [&](const std::vector<double>& ref, const std::vector<double>& plain) {
    const double largest = std::fmax(1, largest_magnitude(ref));
    return is_bf16 ? Tolerance{1e-3 * largest, 2, std::fmax(5e-5, 2 * cosine_distance(ref, plain))}
                   : Tolerance{1e-5 * largest, 2, 1e-8};
  };
  for_each_instruction_set([&] {
    c.poison_outputs();
    c.poison_gradients();
    cpu::attend(c.params());
    cpu::attend_backward(c.backward_params());
    EXPECT_TRUE(is_close(c.d_q.values(), d_q, low.d_q, tolerance(d_q, low.d_q)));
    EXPECT_TRUE(is_close(c.d_k.values(), d_k, low.d_k, tolerance(d_k, low.d_k)));
    EXPECT_TRUE(is_close(c.d_v.values(), d_v, low.d_v, tolerance(d_v, low.d_v)));
    for (const Operand* operand : {&c.d_q, &c.d_k, &c.d_v}) {
      EXPECT_TRUE(operand->gaps_are_untouched());
    }
    ++case_count();
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, BackwardAgrees, ::testing::ValuesIn(backward_shapes()),
                         shape_name);

// The reference's gradients against finite differences of the reference's output, in fp64.
TEST(BackwardReference, IsTheDerivative) {
  const Shape shape{DType::kF64, {4, 1, 2}, {{9, 9}, {6, 14}}, 4, 2, 5, 3, Layout::kPacked};
  BackwardCase c(shape, 3);
  reference::attend_backward(c.backward_params());
  const auto loss = [&] {
    reference::attend(c.params());
    double sum = 0;
    for (std::int64_t i = 0; i < c.out.tokens() * c.out.row_size(); ++i) {
      sum += c.out.get(i) * c.d_out.get(i);
    }
    return sum;
  };
  const auto expect_derivative = [&](Operand& x, const Operand& gradient) {
    for (std::int64_t i = 0; i < x.tokens() * x.row_size(); ++i) {
      constexpr double h = 1e-5;
      const double value = x.get(i);
      x.set(i, value + h);
      const double above = loss();
      x.set(i, value - h);
      const double below = loss();
      x.set(i, value);
      EXPECT_NEAR((above - below) / (2 * h), gradient.get(i), 1e-8) << i;
    }
  };
  expect_derivative(c.q, c.d_q);
  expect_derivative(c.k, c.d_k);
  expect_derivative(c.v, c.d_v);
}

TEST(Backward, LeavesOutWhatIsNotAskedFor) {
  const Shape shape{DType::kF32, {16, 1, 2}, {{100, 100}}, 2, 1, 32, 32, Layout::kGaps};
  BackwardCase c(shape, 4);
  cpu::attend(c.params());
  cpu::attend_backward(c.backward_params());
  const auto d_q = c.d_q.bits(), d_k = c.d_k.bits(), d_v = c.d_v.bits();
  for (int asked = 0; asked < 8; ++asked) {
    c.poison_gradients();
    const auto untouched_q = c.d_q.bits(), untouched_k = c.d_k.bits(), untouched_v = c.d_v.bits();
    BackwardParams params = c.backward_params();
    if (!(asked & 1)) params.d_q.data = nullptr;
    if (!(asked & 2)) params.d_k.data = nullptr;
    if (!(asked & 4)) params.d_v.data = nullptr;
    cpu::attend_backward(params);
    EXPECT_EQ(c.d_q.bits(), asked & 1 ? d_q : untouched_q);
    EXPECT_EQ(c.d_k.bits(), asked & 2 ? d_k : untouched_k);
    EXPECT_EQ(c.d_v.bits(), asked & 4 ? d_v : untouched_v);
    ++case_count();
  }
}

}  // namespace
}  // namespace loza::testing
