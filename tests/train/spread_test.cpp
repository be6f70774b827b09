#include <gtest/gtest.h>
#include <torch/torch.h>

#include <vector>

#include "loza/model/rope_scaling.h"
#include "loza/train/lm_loss.h"
#include "tests/model/tiny_model.h"

// Spread documents: full modules rotate by positions that jump, streaming ones with a RoPE of their
// own by the places in the document.
namespace loza {
namespace {

using testing::TinyFolder;

TokenizedDocument document_of(std::int64_t length, std::int64_t jump_at, std::int64_t jump) {
  TokenizedDocument document;
  document.ids = testing::random_ids(length, 4);
  document.is_answer.assign(document.ids.size(), 1);
  document.is_answer[0] = 0;  // nothing predicts it
  document.answers.push_back({1, length});
  for (std::int64_t i = 0; i < length; ++i) {
    document.positions.push_back(i + (i >= jump_at ? jump : 0));
  }
  return document;
}

double loss_of(const TinyFolder& folder, const std::vector<bool>& streaming,
               const TokenizedDocument& document) {
  const Transformer model = folder.load();
  PlannedCore core(AttentionPlan::from_choice(streaming, {16, 1, 3}, "test"));
  const at::NoGradGuard no_grad;
  return lm_losses(model, std::vector{document}, core, {}).item<double>();
}

TEST(Spread, PositionsAreWhatTheModelRotatesBy) {
  const TinyFolder folder("llama", 3);
  const std::vector<bool> dense(4, false);
  TokenizedDocument spread = document_of(120, 50, 700);
  const double loss = loss_of(folder, dense, spread);

  // The same by hand.
  const Transformer model = folder.load();
  PlannedCore core(AttentionPlan::dense(4));
  ForwardBatch batch = ForwardBatch::whole(spread.ids, core);
  batch.positions = torch::tensor(spread.positions, at::kLong);
  const at::NoGradGuard no_grad;
  const at::Tensor logits = model.logits(model.forward(batch));
  const at::Tensor expected = at::cross_entropy_loss(
      logits.narrow(0, 0, 119), torch::tensor(spread.ids, at::kLong).narrow(0, 1, 119));
  EXPECT_NEAR(loss, expected.item<double>(), 1e-5);

  // A shift of all tokens changes nothing, a jump does.
  const double shifted = loss_of(folder, dense, document_of(120, 0, 700));
  spread.positions.clear();
  const double plain = loss_of(folder, dense, spread);
  EXPECT_NEAR(shifted, plain, 1e-4);
  EXPECT_GT(std::abs(loss - plain), 1e-3);
}

TEST(Spread, StreamingModulesWithARopeOfTheirOwnDoNotNotice) {
  const TinyFolder folder("llama", 3);
  const std::vector<bool> streaming(4, true);
  folder.set_config(
      with_plan(folder.config(), AttentionPlan::from_choice(streaming, {16, 1, 3}, "test")));
  TokenizedDocument spread = document_of(120, 50, 700);
  TokenizedDocument plain = spread;
  plain.positions.clear();
  EXPECT_GT(std::abs(loss_of(folder, streaming, spread) - loss_of(folder, streaming, plain)), 1e-3);

  RopeChange change;
  change.factor = 4;
  change.of = RopeChange::Of::kFull;
  change.sink_is_capped = true;
  folder.set_config(with_rope(folder.config(), change, "config.json"));
  EXPECT_EQ(loss_of(folder, streaming, spread), loss_of(folder, streaming, plain));
}

}  // namespace
}  // namespace loza
