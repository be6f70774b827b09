#pragma once

#include <ATen/core/Tensor.h>

#include "loza/model/transformer.h"
#include "loza/tasks/tokenized.h"

namespace loza {

// What a document asks of a model: the rows of hidden states that predict its answer tokens,
// and those tokens. Answers are N tokens in all.
struct AnswerRows {
  at::Tensor rows;     // [N] int64: the token before each answer token
  at::Tensor targets;  // [N] int64: the answer tokens
};
// Throws Error(kBadInput) for a document without answer tokens.
AnswerRows answer_rows(const TokenizedDocument& document, at::Device device);

// Final hidden states [N, hidden] at the rows.
at::Tensor answer_hidden(const Transformer& model, const TokenizedDocument& document,
                         const AnswerRows& answers, AttentionCore& core);

// Mean squared difference, over rows and hidden units, in fp32 (fp64 of fp64).
at::Tensor distill_loss(const at::Tensor& hidden, const at::Tensor& teacher);

// Mean negative log-likelihood of the targets, nats a token.
at::Tensor lm_loss(const Transformer& model, const at::Tensor& hidden, const at::Tensor& targets);

}  // namespace loza
