#include "loza/model/elementwise.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>
#include <vector>

#include "loza/attention/cpu/instruction_set.h"
#include "loza/model/rope.h"
#include "tests/model/tiny_model.h"
#include "tests/support/compare.h"

namespace loza {
namespace {

using testing::is_close;

std::vector<double> values_of(const at::Tensor& tensor) {
  const at::Tensor wide = tensor.detach().to(at::kDouble).contiguous();
  return {wide.const_data_ptr<double>(), wide.const_data_ptr<double>() + wide.numel()};
}

class ElementwiseOf : public ::testing::TestWithParam<cpu::InstructionSet> {
 protected:
  void SetUp() override {
    before_ = cpu::instruction_set();
    cpu::set_instruction_set(GetParam());
    torch::manual_seed(1);
  }
  void TearDown() override { cpu::set_instruction_set(before_); }

 private:
  cpu::InstructionSet before_ = cpu::InstructionSet::kPortable;
};
INSTANTIATE_TEST_SUITE_P(Sets, ElementwiseOf,
                         ::testing::ValuesIn(cpu::supported_instruction_sets()),
                         [](const auto& info) {
                           std::string name = cpu::instruction_set_name(info.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// A function in fp64 by torch, and its value and gradient in `dtype` by the loops; `inputs` are
// fp64 and all differentiated.
using Formula = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

std::vector<at::Tensor> run(const Formula& formula, const std::vector<at::Tensor>& inputs,
                            at::ScalarType dtype, const at::Tensor& d_out) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& input : inputs) {
    leaves.push_back(input.detach().to(dtype, false, /*copy=*/true).requires_grad_(true));
  }
  const at::Tensor out = formula(leaves);
  out.backward(d_out.to(dtype));
  std::vector<at::Tensor> results = {out};
  for (const at::Tensor& leaf : leaves) results.push_back(leaf.grad());
  return results;
}

void expect_close(const Formula& ours, const Formula& plain, const std::vector<at::Tensor>& inputs,
                  const at::Tensor& d_out) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    // What fp64 makes of the numbers that the dtype can hold.
    std::vector<at::Tensor> rounded;
    for (const at::Tensor& input : inputs) rounded.push_back(input.to(dtype).to(at::kDouble));
    const at::Tensor d_rounded = d_out.to(dtype).to(at::kDouble);
    const auto exact = run(plain, rounded, at::kDouble, d_rounded);
    const auto low = run(plain, rounded, dtype, d_rounded);
    const auto results = run(ours, rounded, dtype, d_rounded);
    for (std::size_t i = 0; i < exact.size(); ++i) {
      EXPECT_EQ(results[i].scalar_type(), dtype);
      EXPECT_TRUE(is_close(values_of(results[i]), values_of(exact[i]), values_of(low[i]),
                           {.atol = dtype == at::kFloat ? 2e-6 : 1e-3, .cosine = 5e-6}))
          << "result " << i << " of sizes " << inputs[0].sizes();
    }
  }
}

at::Tensor random(at::IntArrayRef sizes) { return at::randn(sizes, at::kDouble); }

TEST_P(ElementwiseOf, RmsNorm) {
  for (const std::int64_t size : {1, 2, 15, 16, 17, 64, 100, 576, 1000}) {
    const Formula ours = [](const auto& in) { return rms_norm(in[0], in[1], 1e-5); };
    const Formula plain = [](const auto& in) {
      return in[0] * at::rsqrt(in[0].square().mean(-1, true) + 1e-5) * in[1];
    };
    expect_close(ours, plain, {random({5, size}), random({size})}, random({5, size}));
    expect_close(ours, plain, {random({3, 2, size}), random({size})}, random({3, 2, size}));
  }
}

TEST_P(ElementwiseOf, Swiglu) {
  for (const std::int64_t size : {1, 7, 16, 33, 160}) {
    const Formula plain = [&](const auto& in) {
      return at::silu(in[0].narrow(1, 0, size)) * in[0].narrow(1, size, size);
    };
    expect_close([](const auto& in) { return swiglu(in[0]); }, plain, {random({6, 2 * size}) * 4},
                 random({6, size}));
  }
}

TEST_P(ElementwiseOf, Rotate) {
  for (const bool interleaved : {false, true}) {
    for (const std::int64_t half : {1, 4, 9, 32}) {
      for (const std::int64_t prefix : {0, 3, 16}) {
        RopeConfig config;
        config.size = 2 * half;
        config.interleaved = interleaved;
        const Rotation rotation = Rope(config, at::kCPU).at(torch::tensor({0, 5, 1000}, at::kLong));
        const auto turned = [=](const at::Tensor& x) {
          const auto part = [&](std::int64_t which) {
            using at::indexing::Ellipsis, at::indexing::Slice, at::indexing::None;
            const std::int64_t begin = prefix + which * (interleaved ? 1 : half);
            return interleaved ? x.index({Ellipsis, Slice(begin, None, 2)})
                               : x.index({Ellipsis, Slice(begin, begin + half)});
          };
          const at::Tensor cos = rotation.cos.unsqueeze(1), sin = rotation.sin.unsqueeze(1);
          const at::Tensor a = part(0) * cos - part(1) * sin, b = part(1) * cos + part(0) * sin;
          const at::Tensor pairs =
              interleaved ? at::stack({a, b}, -1).flatten(-2) : at::cat({a, b}, -1);
          return at::cat({x.narrow(-1, 0, prefix), pairs.to(x.scalar_type())}, -1);
        };
        expect_close([=](const auto& in) { return rotate(in[0], rotation, prefix); },
                     [=](const auto& in) { return turned(in[0]); },
                     {random({3, 2, prefix + 2 * half})}, random({3, 2, prefix + 2 * half}));
      }
    }
  }
}

TEST_P(ElementwiseOf, StridedRowsGiveTheSameNumbers) {
  const at::Tensor wide = at::randn({7, 6, 40});
  const at::Tensor strided = wide.narrow(1, 2, 3).narrow(2, 8, 32);
  const at::Tensor weight = at::randn({32});
  EXPECT_TRUE(
      at::equal(rms_norm(strided, weight, 1e-6), rms_norm(strided.contiguous(), weight, 1e-6)));
  RopeConfig config;
  config.size = 32;
  const Rotation rotation = Rope(config, at::kCPU).at(at::arange(7, at::kLong));
  EXPECT_TRUE(at::equal(rotate(strided, rotation), rotate(strided.contiguous(), rotation)));
  const at::Tensor rows = at::randn({7, 100}).narrow(1, 10, 64);
  EXPECT_TRUE(at::equal(swiglu(rows), swiglu(rows.contiguous())));
}

TEST_P(ElementwiseOf, NumbersThatAreNone) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    at::Tensor x = at::ones({3, 32}, dtype);
    x[1][5] = nan;
    const at::Tensor normed = rms_norm(x, at::ones({32}, dtype), 1e-6);
    EXPECT_TRUE(normed[1].isnan().all().item<bool>());
    EXPECT_TRUE(normed[0].isfinite().all().item<bool>());
    EXPECT_TRUE(normed[2].isfinite().all().item<bool>());
    const at::Tensor gated = swiglu(x);
    EXPECT_TRUE(gated[1][5].isnan().item<bool>());
    EXPECT_EQ(gated.isnan().sum().item<std::int64_t>(), 1);

    at::Tensor gate_up = at::ones({1, 12}, dtype);
    const double gates[] = {inf, -1e4, 1e4, -100, 100, 0};
    for (std::int64_t i = 0; i < 6; ++i) gate_up[0][i] = gates[i];
    const std::vector<double> out = values_of(swiglu(gate_up));
    EXPECT_EQ(out[0], inf);
    EXPECT_NEAR(out[1], 0, 1e-30);
    EXPECT_NEAR(out[2], 1e4, 20);
    EXPECT_NEAR(out[3], 0, 1e-30);
    EXPECT_NEAR(out[4], 100, 0.5);
    EXPECT_EQ(out[5], 0);
  }
}

TEST(Rope, PairsKeepTheirLengthAndTheProductItsDistance) {
  torch::manual_seed(2);
  RopeConfig config;
  config.size = 16;
  const Rope rope(config, at::kCPU);
  const at::Tensor q = at::randn({1, 1, 16}), k = at::randn({1, 1, 16});
  const auto turn = [&](const at::Tensor& x, std::int64_t pos) {
    return rotate(x, rope.at(torch::tensor({pos}, at::kLong)));
  };
  EXPECT_NEAR(turn(q, 123).norm().item<double>(), q.norm().item<double>(), 1e-5);
  EXPECT_NEAR((turn(q, 17) * turn(k, 5)).sum().item<double>(),
              (turn(q, 112) * turn(k, 100)).sum().item<double>(), 1e-4);
}

TEST(Rope, YarnMeetsItsEnds) {
  RopeConfig plain;
  plain.size = 64;
  RopeConfig yarn = plain;
  yarn.scaling = RopeConfig::Scaling::kYarn;
  yarn.factor = 8;
  yarn.original_max_position = 4096;
  const Rope from(plain, at::kCPU), to(yarn, at::kCPU);
  const at::Tensor ratio = from.inv_freq() / to.inv_freq();
  EXPECT_NEAR(ratio[0].item<double>(), 1, 1e-6);   // turns often: kept
  EXPECT_NEAR(ratio[-1].item<double>(), 8, 1e-5);  // turns seldom: stretched
  EXPECT_TRUE((ratio.diff() >= -1e-5).all().item<bool>());
  EXPECT_DOUBLE_EQ(to.attention_factor(), 0.1 * std::log(8.0) + 1);
  yarn.mscale = yarn.mscale_all_dim = 0.7;
  EXPECT_DOUBLE_EQ(Rope(yarn, at::kCPU).attention_factor(), 1);
  yarn.attention_factor = 1.5;
  EXPECT_DOUBLE_EQ(Rope(yarn, at::kCPU).attention_factor(), 1.5);
}

}  // namespace
}  // namespace loza
