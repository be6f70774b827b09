#include "loza/train/finetune.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <string>
#include <vector>

#include "loza/base/error.h"
#include "loza/base/random.h"
#include "loza/checkpoint/checkpoint.h"
#include "tests/support/temp_folder.h"

namespace loza {
namespace {

namespace fs = std::filesystem;
using testing::TempFolder;

constexpr BlockPattern kSmallPattern{16, 1, 3};

// Every second module streams, so that gradients pass through both kinds.
AttentionPlan half_streaming(const Transformer& model) {
  std::vector<bool> streaming;
  for (std::int64_t i = 0; i < model.config().num_modules(); ++i) streaming.push_back(i % 2 == 0);
  return AttentionPlan::from_choice(streaming, kSmallPattern, "every second");
}

TokenizedDocument random_document(std::int64_t length, std::uint64_t seed) {
  Random random(seed);
  TokenizedDocument document;
  for (std::int64_t i = 0; i < length; ++i) {
    document.ids.push_back(random.below(250));
    document.is_answer.push_back(i > 0 && random.below(3) == 0);
  }
  document.answers.push_back({1, length});
  return document;
}

class OfFamily : public ::testing::TestWithParam<std::string> {
 protected:
  OfFamily() { make_tiny(GetParam(), folder_.path() / "model", 3); }
  Transformer load(at::ScalarType dtype) const {
    const Checkpoint checkpoint(folder_.path() / "model");
    return Transformer::load(checkpoint, dtype);
  }
  static void require_grad(const Transformer& model) {
    for (const auto& [name, tensor] : model.parameters()) tensor.set_requires_grad(true);
  }
  TempFolder folder_;
};

// The gradient of the loss in each weight's most important element, and in a random one,
// against the difference quotient of the loss, in fp64.
TEST_P(OfFamily, GradientsAreDifferences) {
  const at::AutoGradMode grad_mode(true);
  const Transformer model = load(at::kDouble);
  require_grad(model);
  PlannedCore core(half_streaming(model));
  const std::vector<TokenizedDocument> documents = {random_document(90, 1), random_document(40, 2)};
  const auto loss = [&] { return lm_losses(model, documents, core, {}).sum(); };
  loss().backward();
  Random random(4);
  std::int64_t num_checked = 0;
  for (const auto& [name, tensor] : model.parameters()) {
    const at::Tensor grad = tensor.grad();
    if (!grad.defined()) {
      EXPECT_NE(name.find("e_score_correction_bias"), std::string::npos) << name;
      continue;
    }
    const at::NoGradGuard no_grad;
    const at::Tensor flat_grad = grad.flatten();
    for (const std::int64_t at :
         {flat_grad.abs().argmax().item<std::int64_t>(), random.below(tensor.numel())}) {
      // Parts of stacked weights are views of rows: index in the tensor's own shape.
      std::vector<at::indexing::TensorIndex> index;
      std::int64_t rest = at;
      for (std::int64_t d = tensor.dim() - 1; d >= 0; --d) {
        index.insert(index.begin(), rest % tensor.size(d));
        rest /= tensor.size(d);
      }
      constexpr double kStep = 1e-5;
      const double value = tensor.index(index).item<double>();
      at::Tensor(tensor).index_put_(index, value + kStep);
      const double above = loss().item<double>();
      at::Tensor(tensor).index_put_(index, value - kStep);
      const double below = loss().item<double>();
      at::Tensor(tensor).index_put_(index, value);
      const double expected = (above - below) / (2 * kStep);
      EXPECT_NEAR(flat_grad[at].item<double>(), expected, 2e-5 + 2e-4 * std::abs(expected))
          << name << " element " << at;
      ++num_checked;
    }
  }
  EXPECT_GE(num_checked, 60);
}

TEST_P(OfFamily, RecomputingGivesTheSameGradients) {
  const at::AutoGradMode grad_mode(true);
  const std::vector<TokenizedDocument> documents = {random_document(700, 5),
                                                    random_document(33, 6)};
  std::vector<at::Tensor> losses;
  std::vector<NamedTensors> grads;
  for (const bool recompute : {false, true}) {
    const Transformer model = load(at::kFloat);
    require_grad(model);
    PlannedCore core(half_streaming(model));
    LmLossOptions options;
    options.on = LmLossOptions::On::kAll;
    options.recompute = recompute;
    losses.push_back(lm_losses(model, documents, core, options));
    losses.back().sum().backward();
    NamedTensors& of_run = grads.emplace_back();
    for (const auto& [name, tensor] : model.parameters()) {
      if (tensor.grad().defined()) of_run.emplace_back(name, tensor.grad().clone());
    }
  }
  EXPECT_TRUE(at::equal(losses[0], losses[1]));
  ASSERT_EQ(grads[0].size(), grads[1].size());
  for (std::size_t i = 0; i < grads[0].size(); ++i) {
    EXPECT_TRUE(at::allclose(grads[0][i].second, grads[1][i].second, 1e-5, 1e-7))
        << grads[0][i].first;
  }
}

// Packed documents do not see each other.
TEST_P(OfFamily, PackingChangesNothing) {
  const Transformer model = load(at::kDouble);
  PlannedCore core(half_streaming(model));
  const std::vector<TokenizedDocument> documents = {random_document(70, 7), random_document(1, 8),
                                                    random_document(130, 9)};
  const at::Tensor packed = lm_losses(model, documents, core, {});
  for (std::size_t i = 0; i < documents.size(); ++i) {
    const at::Tensor alone = lm_losses(model, std::span(documents).subspan(i, 1), core, {});
    EXPECT_NEAR(packed[static_cast<std::int64_t>(i)].item<double>(), alone.item<double>(), 1e-9);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, OfFamily, ::testing::ValuesIn(tiny_families()),
                         [](const auto& info) { return info.param; });

// --- Whole runs -------------------------------------------------------------------------

class Run : public ::testing::Test {
 protected:
  Run() {
    make_tiny("llama", source_, 3);
    const Checkpoint checkpoint(source_);
    const Transformer model = Transformer::load(checkpoint, at::kFloat);
    copy_with_config(source_, zigzag_, with_plan(checkpoint.config(), half_streaming(model)));
  }

  static FinetuneOptions options_of(std::int64_t num_steps) {
    FinetuneOptions options;
    options.data.sources = "lines";
    options.data.num_questions = 2;
    options.curriculum = {{300, num_steps / 2}, {400, num_steps - num_steps / 2}};
    options.train.seed = 1;
    options.train.documents_per_step = 2;
    options.train.tokens_per_pass = 2048;
    options.train.clip_norm = 1;
    options.train.schedule.peak = 3e-3;
    return options;
  }

  // Trains into `target`; the losses of the steps.
  std::vector<double> train(const fs::path& target, const FinetuneOptions& options,
                            at::ScalarType dtype = at::kFloat) {
    const Checkpoint checkpoint(zigzag_);
    const Tokenizer tokenizer = Tokenizer::from_folder(zigzag_);
    Transformer model = Transformer::load(checkpoint, dtype);
    std::vector<double> losses;
    finetune(model, checkpoint, tokenizer, options, target,
             [&](const StepReport& step) { losses.push_back(step.loss); });
    for (const auto& [name, tensor] : model.parameters()) EXPECT_FALSE(tensor.requires_grad());
    return losses;
  }

  TempFolder folder_;
  fs::path source_ = folder_.path() / "source", zigzag_ = folder_.path() / "zigzag";
};

std::string weights_of(const fs::path& model) {
  return testing::bytes_of(model / "model.safetensors");
}

TEST_F(Run, LearnsAndKeepsWhatIsNotAWeight) {
  const std::vector<double> losses = train(folder_.path() / "out", options_of(30));
  ASSERT_EQ(losses.size(), 30u);
  EXPECT_LT(losses.back(), 0.7 * losses.front());
  EXPECT_NE(weights_of(folder_.path() / "out"), weights_of(zigzag_));
  for (const char* file : {"config.json", "tokenizer.json", "generation_config.json"}) {
    EXPECT_EQ(testing::bytes_of(folder_.path() / "out" / file), testing::bytes_of(zigzag_ / file));
  }
}

// 40 steps are 20 steps, and 20 more of another process: bit for bit, in fp32 and in bf16 with
// fp32 masters.
TEST_F(Run, ResumesExactly) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const std::string name = c10::toString(dtype);
    FinetuneOptions options = options_of(40);
    const std::vector<double> whole = train(folder_.path() / (name + "-whole"), options, dtype);

    options.run = folder_.path() / (name + "-run");
    options.save_every = 20;
    options.num_kept = 9;
    train(folder_.path() / (name + "-first"), options, dtype);
    fs::remove_all(options.run / "step-00000040");
    options.resume = true;
    const std::vector<double> rest = train(folder_.path() / (name + "-second"), options, dtype);
    EXPECT_EQ(rest, std::vector<double>(whole.begin() + 20, whole.end())) << name;
    EXPECT_EQ(weights_of(folder_.path() / (name + "-second")),
              weights_of(folder_.path() / (name + "-whole")))
        << name;
  }
}

TEST_F(Run, KeepsTheLastSnapshots) {
  FinetuneOptions options = options_of(10);
  options.run = folder_.path() / "run";
  options.save_every = 2;
  train(folder_.path() / "out", options);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(options.run)) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"step-00000008", "step-00000010"}));
}

TEST_F(Run, RefusesARunWithSnapshotsBeforeItTrains) {
  FinetuneOptions options = options_of(2);
  options.run = folder_.path() / "run";
  train(folder_.path() / "out", options);
  EXPECT_THROW(train(folder_.path() / "again", options), Error);
  EXPECT_FALSE(fs::exists(folder_.path() / "again"));
}

TEST_F(Run, RefusesATargetWithFilesBeforeItTrains) {
  std::int64_t num_steps = 0;
  const Checkpoint checkpoint(zigzag_);
  const Tokenizer tokenizer = Tokenizer::from_folder(zigzag_);
  Transformer model = Transformer::load(checkpoint, at::kFloat);
  EXPECT_THROW(finetune(model, checkpoint, tokenizer, options_of(5), source_,
                        [&](const StepReport&) { ++num_steps; }),
               Error);
  EXPECT_EQ(num_steps, 0);
}

// bf16 compute with fp32 masters: updates far below a bf16 step still add up.
TEST(Optimizer, MastersGatherWhatBf16WouldLose) {
  at::Tensor weight = at::ones({1}, at::kBFloat16).requires_grad_();
  Optimizer optimizer({{"weight", weight}}, {});
  for (int step = 0; step < 100; ++step) {
    optimizer.zero_grad();
    weight.mutable_grad() = at::ones({1}, at::kBFloat16);
    optimizer.collect_grads();
    EXPECT_FALSE(weight.grad().defined());
    optimizer.step(1e-4);  // a bf16 step at 1 is 4e-3
  }
  EXPECT_NEAR(optimizer.masters()[0].second.item<double>(), 0.99, 1e-4);
  EXPECT_NEAR(weight.item<double>(), 0.99, 4e-3);
  EXPECT_NE(weight.item<double>(), 1);
}

}  // namespace
}  // namespace loza
