#include "loza/model/transformer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "loza/base/error.h"
#include "loza/base/parallel_for.h"
#include "loza/checkpoint/tensor.h"
#include "tests/model/paged_rows.h"
#include "tests/model/tiny_model.h"
#include "tests/support/hostile.h"

namespace loza {
namespace {

using testing::PagedRows;
using testing::random_ids;
using testing::relative_error;
using testing::TinyFolder;
using testing::whole;

// The models here are so small that waking threads costs more than all their work.
[[maybe_unused]] const bool kOneThread = [] {
  set_num_threads(1);
  at::set_num_threads(1);
  return true;
}();

constexpr double kTolerance = 2e-5;  // fp32, other orders of summation

const TinyFolder& tiny(const std::string& family) {
  static std::map<std::string, TinyFolder> folders;
  return folders.try_emplace(family, family).first->second;
}

AttentionPlan plan_of(const std::string& layer_type, const BlockPattern& pattern) {
  std::vector<bool> streaming;
  for (const char c : layer_type) streaming.push_back(c == '1');
  return AttentionPlan::from_choice(streaming, pattern, "test");
}

struct PlanCase {
  std::string name;
  AttentionPlan plan;
  std::int64_t page_len;
};

std::vector<PlanCase> plan_cases() {
  return {{"dense", AttentionPlan::dense(4), 16},
          {"mixed", plan_of("0110", {8, 1, 3}), 8},
          {"all streaming, small pages", plan_of("1111", {8, 1, 2}), 4},
          {"no sink", plan_of("1011", {4, 0, 2}), 2},
          {"two sinks", plan_of("1101", {4, 2, 1}), 4}};
}

// Runs tokens [begin, end) of each of some sequences as one batch over the pages.
struct Piece {
  std::int64_t sequence, begin, end;
};

at::Tensor run_pieces(const Transformer& model, const AttentionPlan& plan, PagedRows& rows,
                      const std::vector<std::vector<std::int64_t>>& ids,
                      const std::vector<Piece>& pieces) {
  std::vector<std::int64_t> tokens, positions, sequences;
  ForwardBatch batch;
  batch.offsets = {0};
  for (const Piece& piece : pieces) {
    for (std::int64_t pos = piece.begin; pos < piece.end; ++pos) {
      tokens.push_back(
          ids[static_cast<std::size_t>(piece.sequence)][static_cast<std::size_t>(pos)]);
      positions.push_back(pos);
    }
    batch.offsets.push_back(static_cast<std::int64_t>(tokens.size()));
    sequences.push_back(piece.sequence);
    rows.append(piece.sequence, piece.end - piece.begin);
  }
  batch.ids = torch::tensor(tokens, at::kLong);
  batch.positions = torch::tensor(positions, at::kLong);
  batch.plan = &plan;
  batch.kv = &rows.views(sequences);
  return model.forward(batch);
}

// Lengths of pieces that sum to `length`.
std::vector<std::int64_t> cut(std::int64_t length, const std::function<std::int64_t()>& next) {
  std::vector<std::int64_t> pieces;
  while (length > 0) {
    pieces.push_back(std::min(length, next()));
    length -= pieces.back();
  }
  return pieces;
}

class Families : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Model, Families, ::testing::ValuesIn(tiny_families()),
                         [](const auto& info) { return info.param; });

TEST_P(Families, ChunkedPrefillAndDecodeEqualTheWhole) {
  const Transformer model = tiny(GetParam()).load();
  const std::vector<std::int64_t> ids = random_ids(71, 2);
  Random random(3);
  const std::vector<std::pair<std::string, std::function<std::int64_t()>>> cuttings = {
      {"whole", [] { return 71; }},
      {"one by one", [] { return 1; }},
      {"drafts", [&] { return 1 + random.below(8); }},
      {"chunks", [&] { return 9 + random.below(20); }},
      {"anything", [&] { return 1 + random.below(30); }}};
  for (const PlanCase& plan_case : plan_cases()) {
    const at::Tensor expected = whole(model, plan_case.plan, ids);
    for (const auto& [name, next] : cuttings) {
      PagedRows rows(model.config(), plan_case.plan, at::kFloat, 2, 80, plan_case.page_len,
                     ForwardBatch::kMaxDecodeTokens, 5);
      std::vector<at::Tensor> outs;
      std::int64_t begin = 0;
      for (const std::int64_t len : cut(71, next)) {
        outs.push_back(
            run_pieces(model, plan_case.plan, rows, {{}, ids}, {{1, begin, begin + len}}));
        begin += len;
      }
      EXPECT_LE(relative_error(at::cat(outs), expected), kTolerance)
          << plan_case.name << ", " << name;
    }
  }
}

TEST_P(Families, SequencesOfABatchDoNotMeet) {
  const Transformer model = tiny(GetParam()).load();
  const std::vector<std::vector<std::int64_t>> ids = {random_ids(50, 1), random_ids(3, 2),
                                                      random_ids(67, 3)};
  for (const PlanCase& plan_case : plan_cases()) {
    std::vector<at::Tensor> alone;
    ForwardBatch batch;
    std::vector<std::int64_t> packed, positions;
    batch.offsets = {0};
    for (const auto& sequence : ids) {
      alone.push_back(whole(model, plan_case.plan, sequence));
      packed.insert(packed.end(), sequence.begin(), sequence.end());
      for (std::size_t pos = 0; pos < sequence.size(); ++pos) {
        positions.push_back(static_cast<std::int64_t>(pos));
      }
      batch.offsets.push_back(static_cast<std::int64_t>(packed.size()));
    }
    PlannedCore core(plan_case.plan);
    batch.ids = torch::tensor(packed, at::kLong);
    batch.positions = torch::tensor(positions, at::kLong);
    batch.core = &core;
    EXPECT_LE(relative_error(model.forward(batch), at::cat(alone)), kTolerance) << plan_case.name;

    // Over pages: a ragged prefill, then all of them one token at a time, in another order.
    PagedRows rows(model.config(), plan_case.plan, at::kFloat, 3, 80, plan_case.page_len,
                   ForwardBatch::kMaxDecodeTokens, 7);
    const at::Tensor prefilled =
        run_pieces(model, plan_case.plan, rows, ids, {{2, 0, 60}, {0, 0, 48}, {1, 0, 1}});
    EXPECT_LE(relative_error(prefilled, at::cat({alone[2].slice(0, 0, 60), alone[0].slice(0, 0, 48),
                                                 alone[1].slice(0, 0, 1)})),
              kTolerance)
        << plan_case.name;
    for (std::int64_t i = 0; i < 2; ++i) {
      const at::Tensor out =
          run_pieces(model, plan_case.plan, rows, ids,
                     {{1, 1 + i, 2 + i}, {2, 60 + i, 61 + i}, {0, 48 + i, 49 + i}});
      EXPECT_LE(
          relative_error(out, at::stack({alone[1][1 + i], alone[2][60 + i], alone[0][48 + i]})),
          kTolerance)
          << plan_case.name;
    }
  }
}

TEST_P(Families, StreamingIsExactUpToItsLength) {
  const Transformer model = tiny(GetParam()).load();
  const BlockPattern pattern{16, 1, 2};
  const std::vector<std::int64_t> ids = random_ids(pattern.exact_len() + 1, 4);
  const AttentionPlan streaming = plan_of("1111", pattern), dense = AttentionPlan::dense(4);
  for (const std::int64_t length :
       {std::int64_t{1}, std::int64_t{16}, std::int64_t{47}, pattern.exact_len()}) {
    const std::vector<std::int64_t> start(ids.begin(), ids.begin() + length);
    EXPECT_TRUE(at::equal(whole(model, streaming, start), whole(model, dense, start))) << length;
  }
  EXPECT_FALSE(at::equal(whole(model, streaming, ids)[-1], whole(model, dense, ids)[-1]));
}

// Records what the model hands to its core, and runs another one.
class SpyCore : public AttentionCore {
 public:
  explicit SpyCore(AttentionCore& inner) : inner_(inner) {}
  BlockPattern pattern(std::int64_t module_idx) const override {
    return inner_.pattern(module_idx);
  }
  at::Tensor attend(std::int64_t module_idx, const attention::Queries& queries, const at::Tensor& k,
                    const at::Tensor& v, const attention::Sequences& sequences,
                    double scale) override {
    modules.push_back(module_idx);
    shapes.push_back({queries.q.sizes().vec(), k.sizes().vec(), v.sizes().vec()});
    last_scale = scale;
    last_offsets = sequences.k_offsets;
    return inner_.attend(module_idx, queries, k, v, sequences, scale);
  }

  std::vector<std::int64_t> modules, last_offsets;
  std::vector<std::vector<std::vector<std::int64_t>>> shapes;
  double last_scale = 0;

 private:
  AttentionCore& inner_;
};

TEST_P(Families, TheCoreIsTheSeam) {
  const Transformer model = tiny(GetParam()).load();
  const ModelConfig& config = model.config();
  const std::vector<std::int64_t> ids = random_ids(40, 5);
  PlannedCore planned(plan_of("0000", {8, 1, 3}));
  SpyCore spy(planned);
  const at::Tensor out = model.forward(ForwardBatch::whole(ids, spy));
  EXPECT_TRUE(at::equal(out, whole(model, AttentionPlan::dense(4), ids)));
  EXPECT_EQ(spy.modules, (std::vector<std::int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(spy.last_scale, config.softmax_scale);
  EXPECT_EQ(spy.last_offsets, (std::vector<std::int64_t>{0, 40}));
  for (const auto& shape : spy.shapes) {
    EXPECT_EQ(shape[0], (std::vector<std::int64_t>{40, config.num_heads, config.qk_size()}));
    EXPECT_EQ(shape[1], (std::vector<std::int64_t>{40, config.num_key_heads, config.qk_size()}));
    EXPECT_EQ(shape[2], (std::vector<std::int64_t>{40, config.num_key_heads, config.value_size()}));
  }
}

// loss(hidden + eps * direction) of a pass that starts at the residual stream.
double loss_at(const Transformer& model, const ForwardBatch& batch, const at::Tensor& hidden,
               const at::Tensor& weights) {
  ForwardBatch moved = batch;
  moved.hidden = hidden;
  return (model.forward(moved) * weights).sum().item<double>();
}

TEST_P(Families, GradientsEqualFiniteDifferences) {
  const Transformer model = tiny(GetParam()).load(at::kDouble);
  torch::manual_seed(6);
  PlannedCore core(plan_of("0110", {4, 1, 2}));
  ForwardBatch batch = ForwardBatch::whole(random_ids(24, 6), core);
  const auto options = at::TensorOptions(at::kDouble);
  const at::Tensor weights = at::randn({24, model.config().hidden_size}, options);
  const at::Tensor direction = at::randn({24, model.config().hidden_size}, options);
  const at::Tensor hidden =
      at::randn({24, model.config().hidden_size}, options).requires_grad_(true);
  batch.hidden = hidden;
  (model.forward(batch) * weights).sum().backward();
  const double slope = (hidden.grad() * direction).sum().item<double>();

  const at::NoGradGuard no_grad;
  const double eps = 1e-6;
  const double difference = (loss_at(model, batch, hidden + eps * direction, weights) -
                             loss_at(model, batch, hidden - eps * direction, weights)) /
                            (2 * eps);
  EXPECT_NEAR(slope / difference, 1, 1e-5) << slope << " " << difference;

  // The loops of fp32 give the same gradient.
  const Transformer single = tiny(GetParam()).load(at::kFloat);
  const at::Tensor hidden32 = hidden.detach().to(at::kFloat).requires_grad_(true);
  {
    const at::AutoGradMode grad(true);
    batch.hidden = hidden32;
    (single.forward(batch) * weights.to(at::kFloat)).sum().backward();
  }
  EXPECT_LE(relative_error(hidden32.grad(), hidden.grad()), 1e-4);
}

TEST_P(Families, WeightsTrainThroughTheirViews) {
  const Transformer model = tiny(GetParam()).load(at::kDouble);
  PlannedCore core(AttentionPlan::dense(4));
  const ForwardBatch batch = ForwardBatch::whole(random_ids(12, 8), core);
  torch::manual_seed(8);
  const at::Tensor weights =
      at::randn({12, model.config().hidden_size}, at::TensorOptions(at::kDouble));
  const auto loss = [&] { return (model.forward(batch) * weights).sum(); };
  const double before = loss().item<double>();
  auto parameters = model.parameters();
  for (auto& [name, tensor] : parameters) tensor.requires_grad_(true);
  EXPECT_DOUBLE_EQ(loss().item<double>(), before);
  loss().backward();
  for (auto& [name, tensor] : parameters) {
    const bool unused = name == "lm_head.weight" || name.find(".experts.") != std::string::npos ||
                        name.find("e_score_correction_bias") != std::string::npos;
    if (unused) continue;
    ASSERT_TRUE(tensor.grad().defined()) << name;
    const at::NoGradGuard no_grad;
    const at::Tensor direction = at::randn_like(tensor);
    const double eps = 1e-6;
    const at::Tensor kept = tensor.clone();
    tensor.add_(direction, eps);
    const double up = loss().item<double>();
    tensor.copy_(kept).sub_(direction, eps);
    const double down = loss().item<double>();
    tensor.copy_(kept);
    const double slope = (tensor.grad() * direction).sum().item<double>();
    const double difference = (up - down) / (2 * eps);
    EXPECT_NEAR(slope, difference, 1e-4 * std::max(1.0, std::abs(difference))) << name;
  }
}

TEST_P(Families, ParametersAreTheCheckpoint) {
  const TinyFolder& folder = tiny(GetParam());
  const Checkpoint checkpoint = folder.open();
  const Transformer model = Transformer::load(checkpoint, at::kFloat);
  std::int64_t count = 0;
  for (const auto& [name, tensor] : model.parameters()) {
    EXPECT_TRUE(at::equal(tensor, load_tensor(checkpoint.tensor(name)))) << name;
    EXPECT_FALSE(tensor.requires_grad()) << name;
    count += tensor.numel();
  }
  EXPECT_EQ(model.parameters().size(), checkpoint.tensors().size());
  EXPECT_EQ(model.num_parameters(), count);
  const std::vector<ParameterShape> shapes = parameter_shapes(model.config());
  ASSERT_EQ(shapes.size(), model.parameters().size());
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    EXPECT_EQ(shapes[i].name, model.parameters()[i].first);
    EXPECT_EQ(at::IntArrayRef(shapes[i].shape), model.parameters()[i].second.sizes());
  }
}

TEST_P(Families, Bf16StaysNearFp32) {
  const Transformer wide = tiny(GetParam()).load(at::kFloat);
  const Transformer model = tiny(GetParam()).load(at::kBFloat16);
  const std::vector<std::int64_t> ids = random_ids(60, 9);
  const AttentionPlan plan = plan_of("0110", {8, 1, 3});
  const at::Tensor out = whole(model, plan, ids);
  EXPECT_EQ(out.scalar_type(), at::kBFloat16);
  EXPECT_EQ(model.logits(out).scalar_type(), at::kFloat);
  // A router that turns another way moves a token far, and those that look at it: with experts
  // the lower quartile is compared, else the middle token. (transformers' own bf16 does the same.)
  const double compared = model.config().moe.has_value() ? 0.25 : 0.5;
  constexpr double kLargest = 0.05;
  const at::Tensor expected = whole(wide, plan, ids);
  const at::Tensor errors = (out.to(at::kFloat) - expected).norm(2, 1) / expected.norm(2, 1);
  EXPECT_LE(errors.quantile(compared).item<double>(), kLargest);

  PagedRows rows(model.config(), plan, at::kBFloat16, 1, 64, 8, 8, 11);
  std::vector<at::Tensor> outs = {run_pieces(model, plan, rows, {ids}, {{0, 0, 40}})};
  for (std::int64_t pos = 40; pos < 60; ++pos) {
    outs.push_back(run_pieces(model, plan, rows, {ids}, {{0, pos, pos + 1}}));
  }
  const at::Tensor paged = at::cat(outs).to(at::kFloat);
  const at::Tensor paged_errors = (paged - expected).norm(2, 1) / expected.norm(2, 1);
  EXPECT_LE(paged_errors.quantile(compared).item<double>(), kLargest);
  EXPECT_TRUE(paged.isfinite().all().item<bool>());
}

// Rewrites the folder's weights as `change` leaves their list.
void change_tensors(const TinyFolder& folder,
                    const std::function<void(std::vector<TensorEntry>&)>& change) {
  const Checkpoint checkpoint = folder.open();
  std::vector<TensorEntry> entries;
  for (const auto& [name, entry] : checkpoint.tensors()) entries.push_back(*entry);
  change(entries);
  write_safetensors(folder.path() / "model.safetensors", entries);
}

TEST(Transformer, RefusesFoldersThatDoNotFit) {
  testing::HostileSuite suite("model folders");
  const auto refuse = [&](const std::string& title, const std::string& family,
                          const std::string& fragment,
                          const std::function<void(const TinyFolder&)>& spoil) {
    const TinyFolder folder(family);
    spoil(folder);
    suite.expect_bad_input(title, fragment, [&] { folder.load(); });
  };
  const auto set = [](const std::string& key, const Json& value) {
    return [=](const TinyFolder& folder) {
      Json config = folder.config();
      config[key] = value;
      folder.set_config(config);
    };
  };
  refuse("another hidden size", "llama", "model.embed_tokens.weight", set("hidden_size", 128));
  refuse("a huge vocabulary", "llama", "model.embed_tokens.weight", set("vocab_size", 1 << 24));
  refuse("more layers", "qwen2", "model.layers.4.", set("num_hidden_layers", 10000));
  refuse("fewer layers", "qwen2", "model.layers.3.", set("num_hidden_layers", 3));
  refuse("more heads", "llama", "q_proj.weight", set("head_dim", 32));
  refuse("other key heads", "llama", "k_proj.weight", set("num_key_value_heads", 4));
  refuse("biases that are not there", "llama", "q_proj.bias", set("attention_bias", true));
  refuse("a wider feed-forward", "qwen3", "gate_proj.weight", set("intermediate_size", 161));
  refuse("norms that are extra", "qwen3", "k_norm", set("model_type", "llama"));
  refuse("another latent", "deepseek_v2", "kv_a_proj_with_mqa.weight", set("kv_lora_rank", 33));
  refuse("no q LoRA", "deepseek_v2", "q_proj.weight", set("q_lora_rank", nullptr));
  refuse("more experts", "deepseek_v3", "gate.weight", set("n_routed_experts", 12));
  refuse("more shared experts", "deepseek_v3", "shared_experts", set("n_shared_experts", 2));
  refuse("a dense layer more", "deepseek_v3", "layers.1.mlp.gate_proj",
         set("first_k_dense_replace", 2));
  refuse("more zero experts", "longcat_flash", "router.classifier.weight",
         set("zero_expert_num", 5));
  refuse("fewer experts", "longcat_flash", "classifier.weight", set("n_routed_experts", 7));
  refuse("more layers of two modules", "longcat_flash", "model.layers.2.", set("num_layers", 3));
  refuse("a tensor of integers", "llama", "dtype", [](const TinyFolder& folder) {
    const at::Tensor integers = at::zeros({64}, at::kInt);
    change_tensors(folder, [&](std::vector<TensorEntry>& entries) {
      for (TensorEntry& entry : entries) {
        if (entry.name == "model.norm.weight") entry = entry_of(entry.name, integers);
      }
    });
  });
}

TEST(Transformer, DraftLayersAndStoredFrequenciesAreLeftOut) {
  const TinyFolder folder("deepseek_v3");
  Json config = folder.config();
  config["num_nextn_predict_layers"] = 1;
  folder.set_config(config);
  const std::vector<std::int64_t> ids = random_ids(9, 1);
  const at::Tensor before = whole(folder.load(), AttentionPlan::dense(4), ids);
  const at::Tensor draft = at::zeros({64, 64}), frequencies = at::zeros({4});
  change_tensors(folder, [&](std::vector<TensorEntry>& entries) {
    entries.push_back(entry_of("model.layers.4.eh_proj.weight", draft));
    entries.push_back(entry_of("model.layers.0.self_attn.rotary_emb.inv_freq", frequencies));
  });
  EXPECT_TRUE(at::equal(whole(folder.load(), AttentionPlan::dense(4), ids), before));
}

// LongCat-Flash's draft layers, and what transformers writes for experts without weights.
TEST(Transformer, ZeroExpertsHaveNoWeights) {
  const TinyFolder folder("longcat_flash");
  const at::Tensor extra = at::zeros({48, 64});
  const auto save_with = [&](const std::vector<std::string>& names) {
    change_tensors(folder, [&](std::vector<TensorEntry>& entries) {
      for (const std::string& name : names) entries.push_back(entry_of(name, extra));
    });
  };
  const std::vector<std::int64_t> ids = random_ids(9, 1);
  const at::Tensor before = whole(folder.load(), AttentionPlan::dense(4), ids);
  save_with({"model.mtp.layers.0.eh_proj.weight", "model.layers.1.mlp.experts.8.gate_proj.weight",
             "model.layers.1.mlp.experts.11.up_proj.weight"});
  EXPECT_TRUE(at::equal(whole(folder.load(), AttentionPlan::dense(4), ids), before));
  save_with({"model.layers.1.mlp.experts.12.gate_proj.weight"});
  EXPECT_THROW(folder.load(), Error);
}

// Where every token visits zero experts alone, the others' weights do not count.
TEST(Transformer, TokensMayVisitZeroExpertsAlone) {
  const TinyFolder folder("longcat_flash");
  const auto fill = [&](const std::string& part, const auto& value_of) {
    std::vector<at::Tensor> values;
    change_tensors(folder, [&](std::vector<TensorEntry>& entries) {
      for (TensorEntry& entry : entries) {
        if (entry.name.find(part) == std::string::npos) continue;
        values.push_back(value_of(entry.shape));
        entry = entry_of(entry.name, values.back());
      }
    });
  };
  const std::vector<std::int64_t> ids = random_ids(9, 1);
  const at::Tensor as_made = whole(folder.load(), AttentionPlan::dense(4), ids);
  fill("e_score_correction_bias", [](const auto& shape) {
    const at::Tensor correction = at::zeros(shape);
    correction.narrow(0, 8, 4) += 10;
    return correction;
  });
  const at::Tensor before = whole(folder.load(), AttentionPlan::dense(4), ids);
  EXPECT_GT(relative_error(before, as_made), 1e-3);
  fill(".mlp.experts.", [](const auto& shape) { return at::full(shape, NAN); });
  EXPECT_TRUE(at::equal(whole(folder.load(), AttentionPlan::dense(4), ids), before));
}

TEST(Transformer, DtypesByName) {
  EXPECT_EQ(parse_dtype("fp32"), at::kFloat);
  EXPECT_EQ(parse_dtype("bf16"), at::kBFloat16);
  EXPECT_EQ(parse_dtype("auto"), auto_dtype());
  try {
    parse_dtype("fp8");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kUsage);
  }
}

TEST(MakeTiny, RefusesUnknownFamiliesAndFullFolders) {
  const testing::TempFolder folder;
  folder.write("full/file", "x");
  for (const auto& [family, target] :
       {std::pair<std::string, std::string>{"gpt2", "new"}, {"llama", "full"}}) {
    try {
      make_tiny(family, folder / target, 0);
      FAIL() << family;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kUsage);
    }
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "new"));
}

TEST(Int8, DecodeEqualsPrefillAndIsNearTheModel) {
  for (const std::string& family : tiny_families()) {
    const Checkpoint checkpoint = tiny(family).open();
    const Transformer model =
        Transformer::load(checkpoint, at::kFloat, at::kCPU, WeightFormat::kInt8);
    const Transformer exact = tiny(family).load();
    EXPECT_EQ(model.num_parameters(), exact.num_parameters()) << family;
    const c10::InferenceMode no_gradients;
    const AttentionPlan plan = AttentionPlan::dense(model.config().num_modules());
    const std::vector<std::int64_t> ids = random_ids(30, 5);
    const at::Tensor at_once = whole(model, plan, ids);
    EXPECT_GT(relative_error(at_once, whole(exact, plan, ids)), 0) << family;
    PagedRows rows(model.config(), plan, at::kFloat, 1, 30, 16, ForwardBatch::kMaxDecodeTokens, 5);
    std::vector<at::Tensor> steps;
    for (std::int64_t pos = 0; pos < 30; ++pos) {
      steps.push_back(run_pieces(model, plan, rows, {ids}, {{0, pos, pos + 1}}));
    }
    // Attention sums in another order, and a number on the edge between two integers may fall
    // the other way for it.
    const double cosine =
        at::cosine_similarity(at::cat(steps).flatten(), at_once.flatten(), 0).item<double>();
    EXPECT_GT(cosine, 0.999) << family;
    EXPECT_GT(at::cosine_similarity(at_once.flatten(), whole(exact, plan, ids).flatten(), 0)
                  .item<double>(),
              model.config().moe ? 0.9 : 0.995)
        << family;
  }
}

}  // namespace
}  // namespace loza
