// nll: forward passes only (arXiv 2606.27791). From a base plan, the plan that differs in one
// module alone; its score is how much better the answers become (nll), or how much worse
// (nll-mirror).
#include <fmt/format.h>
#include <torch/torch.h>

#include <optional>
#include <vector>

#include "loza/base/progress.h"
#include "loza/calibrate/criteria/criteria.h"
#include "loza/calibrate/losses.h"

namespace loza::criterion {
namespace {

// Answer NLLs of one document under plans that are a base but for one module. Layers below the
// changed module compute what they did in the base run, so each pass begins at its layer.
class OneModuleAtATime {
 public:
  OneModuleAtATime(const Transformer& model, BlockPattern base, BlockPattern other)
      : model_(model), base_(base), other_(other) {}

  // [1 + modules]: the base plan's first.
  std::vector<double> run(const TokenizedDocument& document,
                          std::optional<Progress>& progress) const {
    const AnswerRows answers = answer_rows(document, model_.device());
    std::vector<at::Tensor> layer_inputs;
    PlannedCore base(plan(std::nullopt));
    ForwardBatch batch = ForwardBatch::whole(document.ids, base).on(model_.device());
    batch.layer_inputs = &layer_inputs;
    std::vector<double> nlls = {answer_nll(batch, answers)};
    batch.layer_inputs = nullptr;
    if (progress) progress->advance();
    for (std::int64_t changed = 0; changed < num_modules(); ++changed) {
      PlannedCore core(plan(changed));
      batch.core = &core;
      batch.begin_layer = changed / model_.config().modules_per_layer;
      batch.hidden = layer_inputs[static_cast<std::size_t>(batch.begin_layer)];
      nlls.push_back(answer_nll(batch, answers));
      if (progress) progress->advance();
    }
    return nlls;
  }

  std::int64_t num_modules() const { return model_.config().num_modules(); }

 private:
  AttentionPlan plan(std::optional<std::int64_t> changed) const {
    AttentionPlan plan;
    plan.patterns.assign(static_cast<std::size_t>(num_modules()), base_);
    if (changed) plan.patterns[static_cast<std::size_t>(*changed)] = other_;
    return plan;
  }

  double answer_nll(const ForwardBatch& batch, const AnswerRows& answers) const {
    const at::Tensor hidden = model_.forward(batch).index_select(0, answers.rows);
    return lm_loss(model_, hidden, answers.targets).item<double>();
  }

  const Transformer& model_;
  BlockPattern base_, other_;
};

// What each document's runs gave, over all ranks: [documents, 1 + modules].
at::Tensor run_documents(const char* name, const OneModuleAtATime& runs, const DrawDocument& draw,
                         std::int64_t num_documents, std::uint64_t seed, Group& group) {
  const std::int64_t num_runs = runs.num_modules() + 1;
  const std::int64_t num_of_rank = (num_documents - group.rank() + group.size() - 1) / group.size();
  std::optional<Progress> progress;
  if (group.is_first()) {
    progress.emplace(fmt::format("calibrating {}, seed {}", name, seed), num_of_rank * num_runs);
  }
  // Each rank fills in its own rows; adding zeros leaves them as they are.
  at::Tensor nlls = at::zeros({num_documents, num_runs}, at::kDouble);
  for (std::int64_t i = group.rank(); i < num_documents; i += group.size()) {
    nlls[i] = torch::tensor(runs.run(draw(seed, i), progress), at::kDouble);
    group.check();
  }
  group.sum({nlls});
  return nlls;
}

// sign * (base - changed), a mean over the documents.
SeedCalibration score(const char* name, const OneModuleAtATime& runs, double sign,
                      const DrawDocument& draw, const CalibrateOptions& options, std::uint64_t seed,
                      Group& group) {
  const at::NoGradGuard no_grad;
  const std::int64_t num_documents = options.num_documents();
  const at::Tensor nlls = run_documents(name, runs, draw, num_documents, seed, group);
  SeedCalibration result;
  result.alpha.assign(static_cast<std::size_t>(runs.num_modules()), 0.0);
  const auto of = nlls.accessor<double, 2>();
  for (std::int64_t i = 0; i < num_documents; ++i) {
    result.losses.push_back(of[i][0]);
    for (std::int64_t m = 0; m < runs.num_modules(); ++m) {
      result.alpha[static_cast<std::size_t>(m)] +=
          sign * (of[i][0] - of[i][m + 1]) / static_cast<double>(num_documents);
    }
  }
  return result;
}

}  // namespace

SeedCalibration run_nll(const Transformer& model, const DrawDocument& draw,
                        const CalibrateOptions& options, std::uint64_t seed, Group& group) {
  const OneModuleAtATime runs(model, options.pattern,
                              BlockPattern::full(options.pattern.block_size));
  return score("nll", runs, 1, draw, options, seed, group);
}

SeedCalibration run_nll_mirror(const Transformer& model, const DrawDocument& draw,
                               const CalibrateOptions& options, std::uint64_t seed, Group& group) {
  const OneModuleAtATime runs(model, BlockPattern::full(options.pattern.block_size),
                              options.pattern);
  return score("nll-mirror", runs, -1, draw, options, seed, group);
}

}  // namespace loza::criterion
