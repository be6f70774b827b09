#include "loza/engine/step_runner.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include "loza/base/check.h"
#include "loza/engine/decode_graphs.h"

namespace loza {
namespace {

at::Tensor on_device(const std::vector<std::int64_t>& values, at::Device device) {
  return at::tensor(values, at::kLong).to(device);
}

bool is_every_row(const std::vector<std::int64_t>& rows, std::size_t num_tokens) {
  if (rows.size() != num_tokens) return false;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] != static_cast<std::int64_t>(i)) return false;
  }
  return true;
}

}  // namespace

StepRunner::StepRunner(const Transformer& model, const AttentionPlan& plan, KvCache& cache)
    : model_(model),
      plan_(plan),
      cache_(cache),
      graphs_(DecodeGraphs::make_if_possible(model, plan, cache)) {}

StepRunner::~StepRunner() = default;

at::Tensor StepRunner::logits(const StepTokens& tokens, const std::vector<std::int64_t>& rows) {
  const c10::InferenceMode no_gradients;
  LOZA_CHECK(tokens.positions.size() == tokens.ids.size() &&
                 tokens.offsets.size() == tokens.sequences.size() + 1,
             tokens.ids.size(), tokens.positions.size(), tokens.sequences.size());
  const bool every_row = is_every_row(rows, tokens.ids.size());
  if (graphs_ != nullptr && tokens.is_one_each() && every_row) return graphs_->logits(tokens);

  ForwardBatch batch;
  batch.ids = on_device(tokens.ids, model_.device());
  batch.positions = on_device(tokens.positions, model_.device());
  if (!tokens.places.empty()) batch.places = on_device(tokens.places, model_.device());
  batch.offsets = tokens.offsets;
  batch.plan = &plan_;
  batch.kv = &cache_.views(tokens.sequences);
  const at::Tensor hidden = model_.forward(batch);
  if (rows.empty()) {
    return at::empty({0, model_.config().vocab_size}, hidden.options().dtype(at::kFloat));
  }
  return model_.logits(every_row ? hidden
                                 : hidden.index_select(0, on_device(rows, hidden.device())));
}

std::int64_t StepRunner::num_replays() const {
  return graphs_ == nullptr ? 0 : graphs_->num_replays();
}

}  // namespace loza
