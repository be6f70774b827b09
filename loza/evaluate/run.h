#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "loza/evaluate/cases.h"
#include "loza/evaluate/score.h"
#include "loza/model/plan.h"
#include "loza/model/transformer.h"
#include "loza/tokenizer/tokenizer.h"

namespace loza {

// A plan and what tables call it.
struct NamedPlan {
  std::string name;
  AttentionPlan plan;
};

// One model under one plan, and how it did on every case.
struct SubjectScores {
  std::string name;   // the table's row
  std::string model;  // which weights
  AttentionPlan plan;
  std::vector<DocumentScore> scores;  // [cases]
};

struct RunOptions {
  std::string title = "evaluating";  // of the progress bar
  // Plain texts longer than this are cut into windows that are scored one by one.
  std::int64_t window_len = 8192;
};

// Scores every case under every plan, teacher-forced; each document is tokenised once, with
// this model's tokenizer. Progress is counted in tokens.
// Throws Error(kBadInput) for a document without a token to score.
std::vector<SubjectScores> score_cases(const Transformer& model, const Tokenizer& tokenizer,
                                       const std::string& model_name,
                                       const std::vector<NamedPlan>& plans,
                                       const std::vector<EvalCase>& cases,
                                       const RunOptions& options = {});

}  // namespace loza
