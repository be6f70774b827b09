#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "loza/base/file.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/engine/engine.h"
#include "loza/model/new_model.h"
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

// A model of head sizes that the Hopper kernels take, with random weights.
class HopperFolder {
 public:
  explicit HopperFolder(const std::string& family) : tiny_(family, 3) {
    Json config = tiny_.config();
    config["initializer_range"] = 0.1;
    if (config.contains("kv_lora_rank")) {
      config["kv_lora_rank"] = 512;
      config["qk_nope_head_dim"] = 128;
      config["qk_rope_head_dim"] = 64;
      config["v_head_dim"] = 128;
    } else {
      config["head_dim"] = 64;
    }
    const AttentionPlan plan =
        AttentionPlan::from_choice({true, false, true, false}, {64, 1, 3}, "test");
    RopeChange change;
    change.factor = 4;
    change.of = RopeChange::Of::kFull;
    change.sink_is_capped = true;
    write_file_atomic(config_path(),
                      with_rope(with_plan(config, plan), change, "config.json").dump());
    ensure_new_model({config_path(), tiny_.path()}, path());
  }
  std::filesystem::path path() const { return folder_ / "model"; }

 private:
  std::filesystem::path config_path() const { return folder_ / "config.json"; }

  TinyFolder tiny_;
  testing::TempFolder folder_;
};

bool has_hopper_kernels() {
  PagedKvView view;
  view.dtype = DType::kBF16;
  view.page_len = 64;
  const at::Tensor q = at::empty({1, 4, 64}, at::TensorOptions(at::kBFloat16).device(at::kCUDA));
  return attention::can_attend_on_device(q, view, 1, 2, 64, BlockPattern::full(), 1);
}

struct Generated {
  std::vector<std::vector<std::int64_t>> ids;  // by request
  std::int64_t num_replays = 0;
};

// Three requests of different lengths that end one after the other.
Generated generated_with_graphs(const HopperFolder& folder, const char* graphs) {
  setenv("LOZA_CUDA_GRAPHS", graphs, /*overwrite=*/1);
  const Checkpoint checkpoint(folder.path());
  const Transformer model = Transformer::load(checkpoint, at::kBFloat16, at::kCUDA);
  const AttentionPlan plan =
      read_plan(checkpoint.config(), model.config().num_modules(), "config.json");
  Engine engine(model, plan, nullptr, {.max_sequences = 3, .num_tokens = 4096});
  unsetenv("LOZA_CUDA_GRAPHS");
  std::int64_t max_new = 40;
  for (const std::int64_t prompt_len : {700, 61, 300}) {
    Request request;
    request.prompt = testing::random_ids(prompt_len, static_cast<std::uint64_t>(prompt_len));
    request.max_new = max_new;
    max_new += 100;
    engine.submit(request);
  }
  Generated result;
  result.ids.resize(3);
  while (engine.has_work()) {
    for (const Completion& completion : engine.step()) {
      result.ids[static_cast<std::size_t>(completion.request_id)] = completion.ids;
    }
  }
  result.num_replays = engine.runner().num_replays();
  return result;
}

// Captured steps are the same steps: pages that fill up, rings that wrap, sequences that leave.
TEST_P(EngineOnCuda, GraphsSayWhatStepsSay) {
  if (!has_hopper_kernels()) GTEST_SKIP() << "no Hopper GPU, or a build without its kernels";
  const std::string family = GetParam();
  const HopperFolder folder(family);
  const Generated steps = generated_with_graphs(folder, "0");
  const Generated graphs = generated_with_graphs(folder, "1");
  EXPECT_EQ(graphs.ids, steps.ids);
  EXPECT_EQ(steps.num_replays, 0);
  const bool has_experts =
      family == "deepseek_v2" || family == "deepseek_v3" || family == "longcat_flash";
  if (has_experts) {
    EXPECT_EQ(graphs.num_replays, 0);
  } else {
    EXPECT_GT(graphs.num_replays, 200);
  }
}

INSTANTIATE_TEST_SUITE_P(All, EngineOnCuda, ::testing::ValuesIn(tiny_families()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace loza
