#include "loza/model/head_product.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <limits>
#include <vector>

#include "loza/attention/cpu/instruction_set.h"
#include "loza/base/parallel_for.h"
#include "tests/support/compare.h"

namespace loza {
namespace {

std::vector<double> numbers_of(const at::Tensor& tensor) {
  const at::Tensor wide = tensor.to(at::kDouble).contiguous();
  return {wide.const_data_ptr<double>(), wide.const_data_ptr<double>() + wide.numel()};
}

at::Tensor by_bmm(const at::Tensor& x, const at::Tensor& weight) {
  return at::bmm(x.transpose(0, 1), weight).transpose(0, 1);
}

class HeadProduct : public ::testing::Test {
 protected:
  void SetUp() override { torch::manual_seed(3); }
  void TearDown() override {
    cpu::set_instruction_set(set_);
    set_num_threads(threads_);
  }

 private:
  const cpu::InstructionSet set_ = cpu::instruction_set();
  const int threads_ = num_threads();
};

// Parts of larger tensors, as MLA takes them: matrices beside others, heads with a rotated part.
struct Operands {
  at::Tensor x, weight;
};

Operands operands(std::int64_t num_tokens, std::int64_t in, std::int64_t out, bool rows_are_inputs,
                  at::ScalarType dtype) {
  constexpr std::int64_t kHeads = 3;
  const at::Tensor x = torch::randn({num_tokens, kHeads, in + 5}, at::kDouble).to(dtype);
  const std::int64_t rows = rows_are_inputs ? in : out, columns = rows_are_inputs ? out : in;
  const at::Tensor whole = torch::randn({kHeads, rows + 7, columns}, at::kDouble).to(dtype);
  const at::Tensor weight = whole.narrow(1, 7, rows);
  return {x.narrow(2, 0, in), rows_are_inputs ? weight : weight.transpose(1, 2)};
}

TEST_F(HeadProduct, EqualsABatchOfProducts) {
  for (const cpu::InstructionSet set : cpu::supported_instruction_sets()) {
    cpu::set_instruction_set(set);
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
      for (const std::int64_t num_tokens : {1, 3, 8, 21}) {
        for (const auto& [in, out] : {std::pair<int, int>{128, 512}, {97, 45}, {16, 8}}) {
          for (const bool rows_are_inputs : {true, false}) {
            const auto [x, weight] = operands(num_tokens, in, out, rows_are_inputs, dtype);
            const at::Tensor exact = by_bmm(x.to(at::kDouble), weight.to(at::kDouble));
            const at::Tensor product = head_product(x, weight);
            EXPECT_EQ(product.scalar_type(), dtype);
            EXPECT_TRUE(testing::is_close(numbers_of(product), numbers_of(exact),
                                          numbers_of(by_bmm(x, weight)),
                                          {.atol = 2e-6, .cosine = 5e-6}))
                << cpu::instruction_set_name(set) << " " << dtype << ", " << num_tokens
                << " tokens, " << in << " to " << out << (rows_are_inputs ? " by inputs" : "");
          }
        }
      }
    }
  }
}

TEST_F(HeadProduct, DependsOnNeitherCompanyNorThreads) {
  for (const bool rows_are_inputs : {true, false}) {
    const auto [x, weight] = operands(11, 70, 75, rows_are_inputs, at::kBFloat16);
    set_num_threads(1);
    const at::Tensor product = head_product(x, weight);
    set_num_threads(5);
    EXPECT_TRUE(at::equal(head_product(x, weight), product));
    for (std::int64_t token = 0; token < x.size(0); ++token) {
      EXPECT_TRUE(
          at::equal(head_product(x.narrow(0, token, 1), weight), product.narrow(0, token, 1)));
    }
  }
}

TEST_F(HeadProduct, PassesOnWhatIsNoNumber) {
  for (const bool rows_are_inputs : {true, false}) {
    auto [x, weight] = operands(2, 40, 33, rows_are_inputs, at::kBFloat16);
    x[1][2][39] = std::numeric_limits<float>::quiet_NaN();
    const at::Tensor is_nan = head_product(x, weight).isnan();
    EXPECT_TRUE(is_nan[1][2].all().item<bool>());
    EXPECT_EQ(is_nan.sum().item<std::int64_t>(), 33);
  }
}

}  // namespace
}  // namespace loza
