// Random problems against their definition in fp64, with every instruction set. They are the same
// each time; LOZA_CASES says how many problems a test takes.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "loza/attention/cpu/cpu.h"
#include "loza/attention/reference/reference.h"
#include "loza/base/parallel_for.h"
#include "loza/base/random.h"
#include "tests/attention/kernels/backward_case.h"
#include "tests/attention/kernels/instruction_sets.h"
#include "tests/attention/kernels/low_precision.h"
#include "tests/attention/kernels/paged_case.h"
#include "tests/attention/kernels/random_shapes.h"
#include "tests/support/case_count.h"
#include "tests/support/compare.h"

namespace loza::testing {
namespace {

int num_problems() {
  const char* text = std::getenv("LOZA_CASES");
  return text == nullptr ? 250 : std::atoi(text);
}

Tolerance of_outputs(DType dtype) { return {1e-6, 2, dtype == DType::kBF16 ? 5e-6 : 1e-10}; }

// In a sum that cancels, as with few keys, what is left is the rounding of its terms.
Tolerance of_gradients(DType dtype, const std::vector<double>& exact,
                       const std::vector<double>& low) {
  const double largest = std::fmax(1, largest_magnitude(exact));
  return dtype == DType::kBF16
             ? Tolerance{1e-3 * largest, 2, std::fmax(5e-5, 2 * cosine_distance(exact, low))}
             : Tolerance{1e-5 * largest, 2, 1e-8};
}

// Calls check(shape, seed) for random problems until one fails.
template <typename Choose, typename Check>
void for_each_problem(const Choose& choose, const Check& check) {
  for (int i = 0; i < num_problems(); ++i) {
    const auto seed = static_cast<std::uint64_t>(1000 + i);
    Random random(seed);
    RandomShapes shapes(random);
    const auto shape = choose(shapes);
    SCOPED_TRACE(shape.name() + ", seed " + std::to_string(seed));
    check(shape, seed);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(RandomProblems, PrefillAndItsGradients) {
  const auto choose = [](auto& shapes) { return shapes.prefill(); };
  for_each_problem(choose, [](const Shape& shape, std::uint64_t seed) {
    BackwardCase c(shape, seed);
    BackwardCase exact = c.in_fp64();
    reference::attend_backward(exact.backward_params());
    const auto out = [&] {
      reference::attend(exact.params());
      return exact.out.values();
    }();
    const std::vector<double> lse = exact.lse_values(), d_q = exact.d_q.values(),
                              d_k = exact.d_k.values(), d_v = exact.d_v.values();
    LowPrecision low(c.params());
    low.forward();
    low.backward(c.d_out.view());
    for_each_instruction_set([&] {
      c.poison_outputs();
      c.poison_gradients();
      cpu::attend(c.params());
      cpu::attend_backward(c.backward_params());
      EXPECT_TRUE(is_close(c.out.values(), out, low.out, of_outputs(shape.dtype)));
      EXPECT_TRUE(is_close(c.lse_values(), lse, lse, {2e-5}));
      EXPECT_TRUE(is_close(c.d_q.values(), d_q, low.d_q, of_gradients(shape.dtype, d_q, low.d_q)));
      EXPECT_TRUE(is_close(c.d_k.values(), d_k, low.d_k, of_gradients(shape.dtype, d_k, low.d_k)));
      EXPECT_TRUE(is_close(c.d_v.values(), d_v, low.d_v, of_gradients(shape.dtype, d_v, low.d_v)));
      for (const Operand* operand : {&c.out, &c.d_q, &c.d_k, &c.d_v}) {
        EXPECT_TRUE(operand->gaps_are_untouched());
      }
      ++case_count();
    });
  });
}

TEST(RandomProblems, Decode) {
  const auto choose = [](auto& shapes) { return shapes.decode(); };
  for_each_problem(choose, [](const PagedShape& shape, std::uint64_t seed) {
    PagedCase c(shape, seed);
    ForwardCase exact = contiguous(c, DType::kF64);
    reference::attend(exact.params());
    const std::vector<double> out = exact.out.values(), lse = exact.lse_values();
    ForwardCase plain = contiguous(c, shape.dtype);
    LowPrecision low(plain.params());
    low.forward();
    for_each_instruction_set([&] {
      c.poison_outputs();
      cpu::attend_paged(c.params());
      EXPECT_TRUE(is_close(c.out.values(), out, low.out, of_outputs(shape.dtype)));
      EXPECT_TRUE(is_close(c.lse_values(), lse, lse, {2e-5}));
      EXPECT_TRUE(c.out.gaps_are_untouched());
      ++case_count();
    });
  });
}

// The bits of everything that is computed, 200 times with each number of threads.
TEST(Repeats, GiveTheSameBits) {
  constexpr int kRepeats = 200;
  for_each_instruction_set([] {
    for (const DType dtype : {DType::kBF16, DType::kF32}) {
      BackwardCase c({dtype, {16, 1, 2}, {{70, 70}, {5, 90}}, 4, 2, 32, 32}, 31);
      PagedShape paged_shape;
      paged_shape.dtype = dtype;
      paged_shape.pattern = BlockPattern::full(16);
      paged_shape.lengths = {1100, 3};
      paged_shape.q_len = 2;
      paged_shape.heads = 4;
      paged_shape.key_heads = 2;
      PagedCase paged(paged_shape, 32);
      std::vector<std::vector<std::uint64_t>> first;
      for (const int threads : {1, 2, 7}) {
        set_num_threads(threads);
        for (int i = 0; i < kRepeats; ++i) {
          c.poison_outputs();
          c.poison_gradients();
          paged.poison_outputs();
          cpu::attend(c.params());
          cpu::attend_backward(c.backward_params());
          cpu::attend_paged(paged.params());
          const std::vector<std::vector<std::uint64_t>> now{
              c.out.bits(), c.d_q.bits(), c.d_k.bits(), c.d_v.bits(), paged.out.bits()};
          if (first.empty()) first = now;
          ASSERT_EQ(now, first) << threads << " threads, repeat " << i;
        }
        ++case_count();
      }
      set_num_threads(1);
    }
  });
}

}  // namespace
}  // namespace loza::testing
