#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "loza/evaluate/intervals.h"
#include "loza/model/transformer.h"
#include "loza/tasks/tokenized.h"

namespace loza {

// What is drawn whole in an interval: an answer, or a stretch of a plain text (neighbouring
// tokens share their surprise, so single tokens would make intervals too narrow).
struct UnitScore {
  bool is_answer = false;
  bool exact = false;  // answer: every token was the likeliest one, given those before it
  std::int64_t num_tokens = 0;
  double nll = 0;  // nats, summed over the tokens
};

// Consecutive scored tokens of a plain text that make a unit.
constexpr std::int64_t kStretchLen = 64;

// One document under one plan. Units in the document's order; the same document gives the
// same units under every plan, so that plans can be compared unit by unit.
struct DocumentScore {
  std::vector<UnitScore> units;
  double seconds = 0;               // of running and scoring it
  std::int64_t peak_gpu_bytes = 0;  // held meanwhile, the weights included; 0 on the CPU
};

// Scores a document from the model's hidden states, teacher-forced: token p is predicted by
// row p - 1, whatever was predicted before. hidden [T - first_pos, hidden] holds the rows of
// positions [first_pos, T). Logits are made for the predicting rows alone, a slice at a time.
// REQUIRES: first_pos is before the first scored token.
// Throws Error(kFailed) when a log-probability is not finite.
DocumentScore score_hidden(const Transformer& model, const at::Tensor& hidden,
                           const TokenizedDocument& document, std::int64_t first_pos = 0);

// Runs the whole document under each plan and scores it; one score a plan. Positions below
// every plan's exact_len() see the same keys whatever the plan, and so do all modules' inputs:
// where there are several plans, that beginning is run once and shared, up to the first scored
// token.
std::vector<DocumentScore> score_under_plans(const Transformer& model,
                                             const TokenizedDocument& document,
                                             const std::vector<AttentionPlan>& plans);

}  // namespace loza
