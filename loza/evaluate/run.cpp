#include "loza/evaluate/run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>

#include "loza/base/error.h"
#include "loza/base/log.h"
#include "loza/base/progress.h"
#include "loza/tasks/tokenized.h"

namespace loza {
namespace {

using Windows = std::vector<TokenizedDocument>;

std::string case_name(const EvalCase& eval_case) {
  return eval_case.length == 0 ? fmt::format("{} {}", eval_case.task, eval_case.index)
                               : fmt::format("{} {} {}", eval_case.task,
                                             length_name(eval_case.length), eval_case.index);
}

Windows tokenize_case(const EvalCase& eval_case, const Tokenizer& tokenizer,
                      std::int64_t window_len) {
  const TokenizedDocument whole = tokenize_document(
      eval_case.document, [&](std::string_view text) { return tokenizer.encode(text); });
  const bool can_cut = whole.answers.empty() && whole.length() > window_len;
  Windows windows = can_cut ? cut_into_windows(whole, window_len) : Windows{whole};
  const auto num_scored = [](std::int64_t sum, const TokenizedDocument& window) {
    return std::accumulate(window.is_scored.begin(), window.is_scored.end(), sum);
  };
  if (std::accumulate(windows.begin(), windows.end(), std::int64_t{0}, num_scored) == 0) {
    throw_bad_input(case_name(eval_case), "a token to score after the first one",
                    fmt::format("{} tokens", whole.length()));
  }
  return windows;
}

std::int64_t num_tokens(const Windows& windows) {
  return std::accumulate(windows.begin(), windows.end(), std::int64_t{0},
                         [](std::int64_t sum, const auto& w) { return sum + w.length(); });
}

void warn_if_longer_than_trained(const Windows& windows, const EvalCase& eval_case,
                                 const Transformer& model) {
  for (const TokenizedDocument& window : windows) {
    if (window.length() <= model.config().max_position) continue;
    spdlog::warn("{}: {} tokens, the model is made for {}", case_name(eval_case), window.length(),
                 model.config().max_position);
    return;
  }
}

void append(DocumentScore& score, DocumentScore part) {
  score.units.insert(score.units.end(), part.units.begin(), part.units.end());
  score.seconds += part.seconds;
  score.peak_gpu_bytes = std::max(score.peak_gpu_bytes, part.peak_gpu_bytes);
}

}  // namespace

std::vector<SubjectScores> score_cases(const Transformer& model, const Tokenizer& tokenizer,
                                       const std::string& model_name,
                                       const std::vector<NamedPlan>& plans,
                                       const std::vector<EvalCase>& cases,
                                       const RunOptions& options) {
  std::vector<Windows> documents;
  std::int64_t total = 0;
  for (const EvalCase& eval_case : cases) {
    documents.push_back(tokenize_case(eval_case, tokenizer, options.window_len));
    warn_if_longer_than_trained(documents.back(), eval_case, model);
    total += num_tokens(documents.back());
  }
  std::vector<SubjectScores> subjects;
  std::vector<AttentionPlan> bare_plans;
  for (const NamedPlan& named : plans) {
    subjects.push_back(
        {named.name, model_name, named.plan, std::vector<DocumentScore>(cases.size())});
    bare_plans.push_back(named.plan);
  }
  Progress progress(options.title, total);
  for (std::size_t c = 0; c < cases.size(); ++c) {
    for (const TokenizedDocument& window : documents[c]) {
      std::vector<DocumentScore> scores = score_under_plans(model, window, bare_plans);
      for (std::size_t s = 0; s < subjects.size(); ++s) {
        append(subjects[s].scores[c], std::move(scores[s]));
      }
      progress.advance(window.length(), case_name(cases[c]));
    }
  }
  return subjects;
}

}  // namespace loza
