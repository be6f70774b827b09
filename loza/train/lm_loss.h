#pragma once

#include <ATen/core/Tensor.h>

#include <span>

#include "loza/model/transformer.h"
#include "loza/tasks/tokenized.h"

namespace loza {

struct LmLossOptions {
  enum class On {
    kAnswers,  // the marked tokens: of answers, and of plain texts all
    kAll,      // every token
  };
  On on = On::kAnswers;
  double text_weight = 1;  // of a plain text's loss, beside one with answers
  bool recompute = false;  // activations: a third more work for memory of one layer
};

// -log p of each target: hidden [N, hidden], targets [N] int64 -> [N], in the logits' dtype.
// Differentiable. Logits [rows, vocabulary] exist for a few rows at a time, in either direction.
at::Tensor token_nll(const Transformer& model, const at::Tensor& hidden, const at::Tensor& targets);

// The mean NLL of each document's tokens that count, times its weight: [documents], all in
// one packed pass in which they do not see each other. A document in which no token counts has
// loss 0. `core` must outlive the backward pass.
at::Tensor lm_losses(const Transformer& model, std::span<const TokenizedDocument> documents,
                     AttentionCore& core, const LmLossOptions& options);

}  // namespace loza
