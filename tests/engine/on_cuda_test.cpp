#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>
#include <vector>

#include "loza/checkpoint/checkpoint.h"
#include "loza/engine/engine.h"
#include "loza/model/rope_scaling.h"
#include "tests/model/tiny_model.h"

// Generation on a GPU against the CPU's. Skipped where there is no GPU.
namespace loza {
namespace {

using testing::TinyFolder;

std::vector<std::int64_t> generated(const TinyFolder& folder, at::Device device) {
  const Checkpoint checkpoint = folder.open();
  const Transformer model = Transformer::load(checkpoint, at::kFloat, device);
  const AttentionPlan plan =
      read_plan(checkpoint.config(), model.config().num_modules(), "config.json");
  Engine engine(model, plan, nullptr, {.max_sequences = 2, .num_tokens = 1024, .chunk_len = 100});
  Request request;
  request.prompt = testing::random_ids(300, 5);
  request.max_new = 60;
  engine.submit(request);
  request.prompt = testing::random_ids(33, 6);
  engine.submit(request);
  std::vector<std::int64_t> ids;
  while (engine.has_work()) {
    for (const Completion& completion : engine.step()) {
      ids.push_back(completion.request_id);
      ids.insert(ids.end(), completion.ids.begin(), completion.ids.end());
    }
  }
  return ids;
}

class EngineOnCuda : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (torch::cuda::device_count() == 0) GTEST_SKIP() << "no CUDA device";
  }
};

// Prompts in chunks and two sequences side by side, through pages and rings.
TEST_P(EngineOnCuda, SaysWhatTheCpuSays) {
  const TinyFolder folder(GetParam(), 3);
  const Json config = with_plan(
      folder.config(), AttentionPlan::from_choice({true, false, true, false}, {16, 1, 3}, "test"));
  folder.set_config(config);
  EXPECT_EQ(generated(folder, at::kCUDA), generated(folder, at::kCPU));
  RopeChange change;
  change.factor = 4;
  change.of = RopeChange::Of::kFull;
  change.sink_is_capped = true;
  folder.set_config(with_rope(config, change, "config.json"));
  EXPECT_EQ(generated(folder, at::kCUDA), generated(folder, at::kCPU));
}

INSTANTIATE_TEST_SUITE_P(All, EngineOnCuda, ::testing::ValuesIn(tiny_families()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace loza
