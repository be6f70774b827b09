// A shape, a pattern, lengths and a page table from the bytes: the kernels agree with the
// definition, and touch nothing outside the call's memory. The first byte chooses the instruction
// set, the second what is computed.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "loza/attention/cpu/cpu.h"
#include "loza/attention/cpu/instruction_set.h"
#include "loza/attention/reference/reference.h"
#include "loza/base/parallel_for.h"
#include "tests/attention/kernels/backward_case.h"
#include "tests/attention/kernels/low_precision.h"
#include "tests/attention/kernels/paged_case.h"
#include "tests/attention/kernels/random_shapes.h"

namespace loza::testing {
namespace {

// Numbers from the input's bytes; zeros when they are used up.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  std::int64_t below(std::int64_t n) {
    std::int64_t number = 0;
    for (std::int64_t range = 1; range < n; range *= 256) number = number * 256 + next();
    return number % n;
  }

 private:
  std::uint8_t next() { return size_ > 0 ? (--size_, *data_++) : 0; }

  const std::uint8_t* data_;
  std::size_t size_;
};

[[noreturn]] void fail(const std::string& shape, const std::string& what) {
  std::fprintf(stderr, "%s: %s\n", shape.c_str(), what.c_str());
  std::abort();
}

// The rule of the tests: an error of at most twice that of the same formula in the dtype, plus
// atol.
void expect_close(const std::string& shape, const char* name, const std::vector<double>& out,
                  const std::vector<double>& exact, const std::vector<double>& low, double atol) {
  double error = 0, low_error = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    if (std::isfinite(out[i]) != std::isfinite(exact[i])) {
      fail(shape, fmt::format("{}[{}] is {}, not {}", name, i, out[i], exact[i]));
    }
    if (!std::isfinite(exact[i])) continue;
    error = std::max(error, std::fabs(out[i] - exact[i]));
    low_error = std::max(low_error, std::fabs(low[i] - exact[i]));
  }
  if (error > 2 * low_error + atol) {
    fail(shape, fmt::format("{} is wrong by {}, plain {}", name, error, low_error));
  }
}

double largest_of(const std::vector<double>& values) {
  double largest = 1;
  for (const double value : values) largest = std::max(largest, std::fabs(value));
  return largest;
}

void expect_gaps(const std::string& shape, std::initializer_list<const Operand*> operands) {
  for (const Operand* operand : operands) {
    if (!operand->gaps_are_untouched()) fail(shape, "a gap was written");
  }
}

void prefill(Bytes& bytes) {
  const Shape shape = RandomShapes(bytes).prefill();
  BackwardCase c(shape, 1);
  cpu::attend(c.params());
  cpu::attend_backward(c.backward_params());
  expect_gaps(shape.name(), {&c.out, &c.d_q, &c.d_k, &c.d_v});
  BackwardCase exact = c.in_fp64();
  reference::attend(exact.params());
  reference::attend_backward(exact.backward_params());
  LowPrecision low(c.params());
  low.forward();
  low.backward(c.d_out.view());
  const double atol = shape.dtype == DType::kBF16 ? 1e-3 : 1e-5;
  const auto expect_gradient = [&](const char* name, const Operand& out, const Operand& of_exact,
                                   const std::vector<double>& of_low) {
    const std::vector<double> values = of_exact.values();
    expect_close(shape.name(), name, out.values(), values, of_low, atol * largest_of(values));
  };
  expect_close(shape.name(), "out", c.out.values(), exact.out.values(), low.out, 1e-6);
  expect_close(shape.name(), "lse", c.lse_values(), exact.lse_values(), exact.lse_values(), 2e-5);
  expect_gradient("d_q", c.d_q, exact.d_q, low.d_q);
  expect_gradient("d_k", c.d_k, exact.d_k, low.d_k);
  expect_gradient("d_v", c.d_v, exact.d_v, low.d_v);
}

void decode(Bytes& bytes) {
  const PagedShape shape = RandomShapes(bytes).decode();
  PagedCase c(shape, 2);
  cpu::attend_paged(c.params());
  expect_gaps(shape.name(), {&c.out});
  ForwardCase exact = contiguous(c, DType::kF64), plain = contiguous(c, shape.dtype);
  reference::attend(exact.params());
  LowPrecision low(plain.params());
  low.forward();
  expect_close(shape.name(), "out", c.out.values(), exact.out.values(), low.out, 1e-6);
  expect_close(shape.name(), "lse", c.lse_values(), exact.lse_values(), exact.lse_values(), 2e-5);
}

}  // namespace
}  // namespace loza::testing

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace loza;
  testing::Bytes bytes(data, size);
  set_num_threads(1);
  const auto sets = cpu::supported_instruction_sets();
  cpu::set_instruction_set(
      sets[static_cast<std::size_t>(bytes.below(static_cast<std::int64_t>(sets.size())))]);
  bytes.below(2) == 0 ? testing::prefill(bytes) : testing::decode(bytes);
  return 0;
}
