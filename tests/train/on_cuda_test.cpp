#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>
#include <vector>

#include "loza/checkpoint/checkpoint.h"
#include "loza/model/plan.h"
#include "loza/model/rope_scaling.h"
#include "loza/train/lm_loss.h"
#include "tests/model/tiny_model.h"

// Losses and gradients on a GPU against those of the CPU. Skipped where there is no GPU.
namespace loza {
namespace {

using testing::TinyFolder;

// Every second module streams, with a RoPE of its own and the sink before its window.
void make_zigzag(const TinyFolder& folder) {
  const std::vector<bool> streaming{true, false, true, false};
  const Json config =
      with_plan(folder.config(), AttentionPlan::from_choice(streaming, {16, 1, 3}, "every second"));
  RopeChange change;
  change.factor = 4;
  change.of = RopeChange::Of::kFull;
  change.sink_is_capped = true;
  folder.set_config(with_rope(config, change, "config.json"));
}

std::vector<TokenizedDocument> documents() {
  std::vector<TokenizedDocument> documents(2);
  std::uint64_t seed = 1;
  for (TokenizedDocument& document : documents) {
    document.ids = testing::random_ids(150 + 77 * static_cast<std::int64_t>(seed), seed);
    document.is_answer.assign(document.ids.size(), 1);
    document.is_answer[0] = 0;  // nothing predicts it
    document.answers.push_back({1, document.length()});
    ++seed;
  }
  return documents;
}

struct Pass {
  at::Tensor losses;     // fp64 on the CPU
  at::Tensor gradients;  // of all weights, one after the other
};

Pass run(const TinyFolder& folder, at::ScalarType dtype, at::Device device) {
  const at::AutoGradMode grad_mode(true);
  const Checkpoint checkpoint = folder.open();
  const Transformer model = Transformer::load(checkpoint, dtype, device);
  for (const auto& [name, tensor] : model.parameters()) tensor.set_requires_grad(true);
  PlannedCore core(read_plan(checkpoint.config(), model.config().num_modules(), "config.json"));
  const at::Tensor losses = lm_losses(model, documents(), core, {});
  losses.sum().backward();
  Pass pass{losses.detach().to(at::kCPU, at::kDouble), {}};
  std::vector<at::Tensor> gradients;
  for (const auto& [name, tensor] : model.parameters()) {
    const at::Tensor gradient = tensor.grad().defined() ? tensor.grad() : at::zeros_like(tensor);
    gradients.push_back(gradient.to(at::kCPU, at::kDouble).flatten());
  }
  pass.gradients = at::cat(gradients);
  return pass;
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

class OnCudaOfFamily : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (torch::cuda::device_count() == 0) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_P(OnCudaOfFamily, LossesAndGradientsAreTheCpus) {
  const TinyFolder folder(GetParam(), 3);
  make_zigzag(folder);
  const Pass exact = run(folder, at::kDouble, at::kCPU);
  const Pass fp32 = run(folder, at::kFloat, at::kCUDA);
  EXPECT_LE(distance(fp32.losses, exact.losses), 1e-5);
  EXPECT_LE(distance(fp32.gradients, exact.gradients), 1e-3);
  // In bf16 as far as the CPU is, give or take.
  const Pass on_cpu = run(folder, at::kBFloat16, at::kCPU);
  const Pass on_cuda = run(folder, at::kBFloat16, at::kCUDA);
  EXPECT_LE(distance(on_cuda.losses, exact.losses),
            2 * distance(on_cpu.losses, exact.losses) + 1e-3);
  EXPECT_LE(distance(on_cuda.gradients, exact.gradients),
            2 * distance(on_cpu.gradients, exact.gradients) + 1e-2);
}

INSTANTIATE_TEST_SUITE_P(All, OnCudaOfFamily, ::testing::ValuesIn(tiny_families()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace loza
