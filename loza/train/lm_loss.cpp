#include "loza/train/lm_loss.h"

#include <torch/torch.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "loza/base/check.h"
#include "loza/model/recompute.h"

namespace loza {
namespace {

// Bounds the logits that exist at a time: 512 rows of a vocabulary of 150,000 are 300 MB.
constexpr std::int64_t kRowsAtATime = 512;

// What counts in a packed batch.
struct PackedTargets {
  std::vector<std::int64_t> rows;       // of the batch: each predicts the next token
  std::vector<std::int64_t> ids;        // the tokens that follow
  std::vector<std::int64_t> documents;  // whose they are
  std::vector<float> weights;           // the document's weight over its number of targets
};

std::vector<std::int64_t> counted_positions(const TokenizedDocument& document,
                                            LmLossOptions::On on) {
  if (on == LmLossOptions::On::kAnswers) return marked_positions(document.is_answer);
  std::vector<std::int64_t> positions(document.ids.empty() ? 0 : document.ids.size() - 1);
  std::iota(positions.begin(), positions.end(), 1);
  return positions;
}

void append_targets(const TokenizedDocument& document, std::int64_t document_idx,
                    std::int64_t first_row, const LmLossOptions& options, PackedTargets& packed) {
  const Targets targets = targets_at(document, counted_positions(document, options.on));
  for (const std::int64_t row : targets.rows) packed.rows.push_back(first_row + row);
  packed.ids.insert(packed.ids.end(), targets.ids.begin(), targets.ids.end());
  packed.documents.resize(packed.rows.size(), document_idx);
  const double weight = document.answers.empty() ? options.text_weight : 1;
  const auto count = static_cast<double>(targets.rows.size());
  packed.weights.resize(packed.rows.size(), static_cast<float>(weight / count));
}

// Where a spread document's tokens stand; streaming modules with a RoPE of their own rotate by
// their places in the document.
void set_positions(std::span<const TokenizedDocument> documents, ForwardBatch& batch) {
  batch.places = batch.positions.clone();
  std::int64_t first_row = 0;
  for (const TokenizedDocument& document : documents) {
    if (!document.positions.empty()) {
      batch.positions.narrow(0, first_row, document.length())
          .copy_(torch::tensor(document.positions, at::kLong));
    }
    first_row += document.length();
  }
}

}  // namespace

at::Tensor token_nll(const Transformer& model, const at::Tensor& hidden,
                     const at::Tensor& targets) {
  LOZA_CHECK(hidden.size(0) == targets.size(0), hidden.size(0), targets.size(0));
  std::vector<at::Tensor> parts;
  for (std::int64_t begin = 0; begin < targets.size(0); begin += kRowsAtATime) {
    const std::int64_t count = std::min(kRowsAtATime, targets.size(0) - begin);
    const at::Tensor expected = targets.narrow(0, begin, count);
    const auto nll = [&model, expected](const at::Tensor& rows) {
      return at::nll_loss(at::log_softmax(model.logits(rows), -1), expected, {},
                          at::Reduction::None);
    };
    parts.push_back(recomputed(nll, hidden.narrow(0, begin, count)));
  }
  if (parts.empty()) return model.logits(hidden).sum(-1);  // [0], with autograd's history
  return at::cat(parts);
}

at::Tensor lm_losses(const Transformer& model, std::span<const TokenizedDocument> documents,
                     AttentionCore& core, const LmLossOptions& options) {
  std::vector<std::vector<std::int64_t>> sequences;
  PackedTargets targets;
  std::int64_t first_row = 0;
  for (std::size_t i = 0; i < documents.size(); ++i) {
    append_targets(documents[i], static_cast<std::int64_t>(i), first_row, options, targets);
    sequences.push_back(documents[i].ids);
    first_row += documents[i].length();
  }
  ForwardBatch batch = ForwardBatch::packed(sequences, core);
  set_positions(documents, batch);
  batch = batch.on(model.device());
  batch.recompute = options.recompute;

  const auto on_device = [&](const auto& values) {
    return torch::tensor(values).to(model.device());
  };
  const at::Tensor hidden = model.forward(batch).index_select(0, on_device(targets.rows));
  const at::Tensor nll = token_nll(model, hidden, on_device(targets.ids));
  const at::Tensor losses = at::zeros({static_cast<std::int64_t>(documents.size())}, nll.options());
  return losses.index_add(0, on_device(targets.documents), nll * on_device(targets.weights));
}

}  // namespace loza
