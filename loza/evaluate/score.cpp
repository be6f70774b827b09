#include "loza/evaluate/score.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <utility>

#include "loza/base/check.h"
#include "loza/base/error.h"
#include "loza/model/device_peak.h"

namespace loza {
namespace {

// A slice of fp32 logits at most: no document makes a [T, vocab] tensor.
constexpr std::int64_t kMaxLogitBytes = std::int64_t{64} << 20;

// How one scored token was predicted.
struct TokenScore {
  double nll = 0;
  bool top = false;
};

at::Tensor int64_tensor(const std::vector<std::int64_t>& values) {
  return at::tensor(at::ArrayRef<std::int64_t>(values), at::kLong);
}

// One TokenScore for each of `positions`; `hidden` begins with the row of first_pos.
std::vector<TokenScore> score_tokens(const Transformer& model, const at::Tensor& hidden,
                                     const TokenizedDocument& document, std::int64_t first_pos,
                                     const std::vector<std::int64_t>& positions) {
  LOZA_CHECK(positions.empty() || positions.front() > first_pos, first_pos);
  const Targets targets = targets_at(document, positions);
  const auto count = static_cast<std::int64_t>(positions.size());
  const std::int64_t row_bytes = model.config().vocab_size * 4;
  const std::int64_t slice = std::max<std::int64_t>(kMaxLogitBytes / row_bytes, 1);
  const at::Tensor row_idx = (int64_tensor(targets.rows) - first_pos).to(hidden.device());
  const at::Tensor target_idx = int64_tensor(targets.ids).to(hidden.device());

  std::vector<TokenScore> scores;
  for (std::int64_t begin = 0; begin < count; begin += slice) {
    const std::int64_t len = std::min(slice, count - begin);
    const at::Tensor target = target_idx.narrow(0, begin, len);
    const at::Tensor logits =
        model.logits(hidden.index_select(0, row_idx.narrow(0, begin, len)));  // [len, V]
    const at::Tensor log_likelihood =
        logits.gather(1, target.unsqueeze(1)).squeeze(1) - logits.logsumexp(1);
    const at::Tensor nll = log_likelihood.neg().to(at::kDouble).cpu().contiguous();
    const at::Tensor top = logits.argmax(1).eq(target).cpu().contiguous();
    for (std::int64_t i = 0; i < len; ++i) {
      scores.push_back({nll.const_data_ptr<double>()[i], top.const_data_ptr<bool>()[i]});
    }
  }
  return scores;
}

// An answer, or a stretch of a text, from the scores of its tokens.
UnitScore make_unit(const TokenScore* begin, std::int64_t num_tokens, bool is_answer) {
  UnitScore unit{is_answer, is_answer, num_tokens, 0};
  for (const TokenScore* token = begin; token != begin + num_tokens; ++token) {
    unit.exact = unit.exact && token->top;
    unit.nll += token->nll;
  }
  return unit;
}

DocumentScore group_units(const std::vector<TokenScore>& tokens,
                          const TokenizedDocument& document) {
  DocumentScore score;
  std::size_t next = 0;
  if (document.answers.empty()) {
    while (next < tokens.size()) {
      const auto len =
          std::min<std::int64_t>(kStretchLen, static_cast<std::int64_t>(tokens.size() - next));
      score.units.push_back(make_unit(&tokens[next], len, /*is_answer=*/false));
      next += static_cast<std::size_t>(len);
    }
    return score;
  }
  for (const AnswerSpan& answer : document.answers) {
    if (!answer.scored) continue;
    const std::int64_t len = answer.end - answer.begin;
    LOZA_CHECK(next + static_cast<std::size_t>(len) <= tokens.size(), next, len, tokens.size());
    score.units.push_back(make_unit(&tokens[next], len, /*is_answer=*/true));
    next += static_cast<std::size_t>(len);
  }
  LOZA_CHECK(next == tokens.size(), next, tokens.size());
  return score;
}

// Attention of a document's positions [prefix_len, T) after those before it were run once:
// record() keeps each module's first keys and values, resume() puts them before a tail's own.
class PrefixCore : public AttentionCore {
 public:
  PrefixCore(std::int64_t num_modules, std::int64_t prefix_len)
      : prefix_len_(prefix_len), keys_(num_modules), values_(num_modules) {}

  // The plan for the tail that is run next.
  void resume(const AttentionPlan& plan) { plan_ = &plan; }

  BlockPattern pattern(std::int64_t module_idx) const override {
    return plan_ == nullptr ? BlockPattern::full()
                            : plan_->patterns[static_cast<std::size_t>(module_idx)];
  }

  at::Tensor attend(std::int64_t module_idx, const attention::Queries& queries, const at::Tensor& k,
                    const at::Tensor& v, const attention::Sequences& sequences,
                    double scale) override {
    const auto module = static_cast<std::size_t>(module_idx);
    if (plan_ == nullptr) {
      keys_[module] = k.clone();
      values_[module] = v.clone();
      return attention::attend(queries, k, v, sequences, BlockPattern::full(), scale);
    }
    const at::Tensor all_keys = at::cat({keys_[module], k});
    const at::Tensor all_values = at::cat({values_[module], v});
    attention::Sequences tail;
    tail.q_offsets = {0, k.size(0)};
    tail.k_offsets = {0, prefix_len_ + k.size(0)};
    return attention::attend(queries, all_keys, all_values, tail, pattern(module_idx), scale);
  }

 private:
  std::int64_t prefix_len_;
  const AttentionPlan* plan_ = nullptr;    // null: the beginning is being recorded
  std::vector<at::Tensor> keys_, values_;  // [modules] of [prefix_len, G, D or V]
};

// A batch of the one stretch [begin, end) of a document.
ForwardBatch batch_of_stretch(const TokenizedDocument& document, std::int64_t begin,
                              std::int64_t end, AttentionCore& core, at::Device device) {
  ForwardBatch batch;
  batch.ids = int64_tensor(document.ids).narrow(0, begin, end - begin).to(device);
  batch.positions = at::arange(begin, end, at::kLong).to(device);
  batch.offsets = {0, end - begin};
  batch.core = &core;
  return batch;
}

// What a document takes. Scores are read from the device, so they end what was asked of it.
class Meter {
 public:
  explicit Meter(at::Device device) : device_(device) { restart_device_peak(device); }

  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  DocumentScore read(DocumentScore score) const {
    score.seconds = seconds();
    score.peak_gpu_bytes = peak_device_bytes(device_);
    return score;
  }

 private:
  at::Device device_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// How far the plans agree on what every query sees.
std::int64_t shared_len(const std::vector<AttentionPlan>& plans) {
  std::int64_t len = BlockPattern::full().exact_len();
  for (const AttentionPlan& plan : plans) {
    for (const BlockPattern& pattern : plan.patterns) len = std::min(len, pattern.exact_len());
  }
  return len;
}

}  // namespace

DocumentScore score_hidden(const Transformer& model, const at::Tensor& hidden,
                           const TokenizedDocument& document, std::int64_t first_pos) {
  const at::NoGradGuard no_grad;
  const std::vector<std::int64_t> positions = marked_positions(document.is_scored);
  const std::vector<TokenScore> tokens =
      score_tokens(model, hidden, document, first_pos, positions);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (std::isfinite(tokens[i].nll)) continue;
    throw Error(ExitCode::kFailed,
                {fmt::format("the score of token {}", positions[i]), "a finite log-probability",
                 fmt::format("{}", -tokens[i].nll), "try --dtype fp32"});
  }
  return group_units(tokens, document);
}

std::vector<DocumentScore> score_under_plans(const Transformer& model,
                                             const TokenizedDocument& document,
                                             const std::vector<AttentionPlan>& plans) {
  const at::NoGradGuard no_grad;
  const std::vector<std::int64_t> scored = marked_positions(document.is_scored);
  if (scored.empty()) return std::vector<DocumentScore>(plans.size());
  const std::int64_t end = document.length();
  // Row scored[0] - 1 must be in the tail: it makes the first prediction. Where the plan decides
  // how a module is rotated, plans share nothing.
  const bool can_share = plans.size() > 1 && !model.config().has_rope_by_kind;
  const std::int64_t prefix_len = can_share ? std::min(shared_len(plans), scored.front() - 1) : 0;
  std::vector<DocumentScore> scores;
  if (prefix_len == 0) {
    for (const AttentionPlan& plan : plans) {
      const Meter meter(model.device());
      PlannedCore core(plan);
      const at::Tensor hidden =
          model.forward(batch_of_stretch(document, 0, end, core, model.device()));
      scores.push_back(meter.read(score_hidden(model, hidden, document)));
    }
    return scores;
  }
  const Meter of_prefix(model.device());
  PrefixCore core(model.config().num_modules(), prefix_len);
  model.forward(batch_of_stretch(document, 0, prefix_len, core, model.device()));
  const double prefix_seconds = of_prefix.seconds();
  for (const AttentionPlan& plan : plans) {
    const Meter meter(model.device());
    core.resume(plan);
    const at::Tensor hidden =
        model.forward(batch_of_stretch(document, prefix_len, end, core, model.device()));
    scores.push_back(meter.read(score_hidden(model, hidden, document, prefix_len)));
    scores.back().seconds += prefix_seconds;
  }
  return scores;
}

}  // namespace loza
