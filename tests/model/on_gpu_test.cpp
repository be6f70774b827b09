#include "loza/model/on_gpu.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <limits>
#include <string>

#include "loza/model/elementwise.h"

// The elementwise kernels against torch's operations, bit for bit. Skipped where they do not run.
namespace loza {
namespace {

class OnGpu : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override {
    if (torch::cuda::device_count() == 0) GTEST_SKIP() << "no CUDA device";
    if (!on_gpu::takes(random({1, 1}))) GTEST_SKIP() << "no Hopper GPU, or built without kernels";
    torch::manual_seed(1);
  }
  static at::Tensor random(at::IntArrayRef shape) {
    return at::randn(shape, at::TensorOptions(at::kCUDA)).to(GetParam());
  }
};

// Heads beside others that the kernel must leave alone, as in a product of q, k and v.
TEST_P(OnGpu, RotatesAsTorchDoes) {
  for (const std::int64_t num_tokens : {1, 2, 37}) {
    for (const std::int64_t prefix : {0, 5, 128}) {
      for (const std::int64_t half : {1, 9, 32, 64}) {
        for (const bool interleaved : {false, true}) {
          for (const float sign : {1.0f, -1.0f}) {
            const at::Tensor all = random({num_tokens, 7, prefix + 2 * half});
            const at::Tensor x = all.narrow(1, 2, 3);
            const at::Tensor angles = at::randn({num_tokens, half}, at::kCUDA) * 100;
            const at::Tensor cos = angles.cos(), sin = angles.sin();
            const at::Tensor out = on_gpu::rotate(x, cos, sin, prefix, interleaved, sign);

            const at::Tensor pairs = x.narrow(2, prefix, 2 * half).to(at::kFloat);
            const auto part = [&](std::int64_t i) {
              return interleaved ? pairs.unflatten(2, {half, 2}).select(3, i)
                                 : pairs.unflatten(2, {2, half}).select(2, i);
            };
            const at::Tensor cosines = cos.unsqueeze(1), sines = sign * sin.unsqueeze(1);
            const at::Tensor a = part(0) * cosines - part(1) * sines;
            const at::Tensor b = part(1) * cosines + part(0) * sines;
            const at::Tensor turned = at::stack({a, b}, interleaved ? 3 : 2).flatten(2);
            const at::Tensor expected = at::cat({x.narrow(2, 0, prefix), turned.to(GetParam())}, 2);
            EXPECT_TRUE(at::equal(out, expected))
                << num_tokens << " tokens, prefix " << prefix << ", half " << half << ", "
                << interleaved << ", sign " << sign;
          }
        }
      }
    }
  }
}

TEST_P(OnGpu, SwigluIsTorchs) {
  for (const std::int64_t num_tokens : {0, 1, 3, 1000}) {
    for (const std::int64_t size : {1, 255, 256, 257, 1536}) {
      const at::Tensor gate_up = random({num_tokens, 2 * size + 3}).narrow(1, 0, 2 * size) * 4;
      const at::Tensor gate = gate_up.narrow(1, 0, size), up = gate_up.narrow(1, size, size);
      EXPECT_TRUE(at::equal(on_gpu::swiglu(gate_up), at::silu(gate) * up))
          << num_tokens << " x " << size;
    }
  }
}

TEST_P(OnGpu, InfinitiesAndNans) {
  const float inf = std::numeric_limits<float>::infinity();
  const at::Tensor gate_up =
      at::tensor({inf, -inf, -inf, 1e30f, NAN, 0.0f, 1.0f, 2.0f, inf, -1.0f, 1.0f, inf})
          .view({1, 12})
          .to(at::kCUDA)
          .to(GetParam());
  const at::Tensor expected = at::silu(gate_up.narrow(1, 0, 6)) * gate_up.narrow(1, 6, 6);
  EXPECT_TRUE(at::allclose(on_gpu::swiglu(gate_up), expected, 0, 0, /*equal_nan=*/true));
}

INSTANTIATE_TEST_SUITE_P(Dtypes, OnGpu, ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

}  // namespace
}  // namespace loza
