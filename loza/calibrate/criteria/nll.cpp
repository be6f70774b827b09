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
  std::vector<double> run(const TokenizedDocument& document, Progress& progress) const {
    const AnswerRows answers = answer_rows(document, model_.device());
    std::vector<at::Tensor> layer_inputs;
    PlannedCore base(plan(std::nullopt));
    ForwardBatch batch = ForwardBatch::whole(document.ids, base).on(model_.device());
    batch.layer_inputs = &layer_inputs;
    std::vector<double> nlls = {answer_nll(batch, answers)};
    batch.layer_inputs = nullptr;
    progress.advance();
    for (std::int64_t changed = 0; changed < num_modules(); ++changed) {
      PlannedCore core(plan(changed));
      batch.core = &core;
      batch.begin_layer = changed / model_.config().modules_per_layer;
      batch.hidden = layer_inputs[static_cast<std::size_t>(batch.begin_layer)];
      nlls.push_back(answer_nll(batch, answers));
      progress.advance();
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

// sign * (base - changed), a mean over the documents.
SeedCalibration score(const char* name, const OneModuleAtATime& runs, double sign,
                      const DrawDocument& draw, const CalibrateOptions& options,
                      std::uint64_t seed) {
  const at::NoGradGuard no_grad;
  const std::int64_t num_modules = runs.num_modules();
  Progress progress(fmt::format("calibrating {}, seed {}", name, seed),
                    options.num_steps * (num_modules + 1));
  SeedCalibration result;
  result.alpha.assign(static_cast<std::size_t>(num_modules), 0.0);
  for (std::int64_t step = 0; step < options.num_steps; ++step) {
    const std::vector<double> nlls = runs.run(draw(seed, step), progress);
    result.losses.push_back(nlls[0]);
    for (std::size_t i = 0; i < result.alpha.size(); ++i) {
      result.alpha[i] += sign * (nlls[0] - nlls[i + 1]) / static_cast<double>(options.num_steps);
    }
  }
  return result;
}

}  // namespace

SeedCalibration run_nll(const Transformer& model, const DrawDocument& draw,
                        const CalibrateOptions& options, std::uint64_t seed) {
  const OneModuleAtATime runs(model, options.pattern,
                              BlockPattern::full(options.pattern.block_size));
  return score("nll", runs, 1, draw, options, seed);
}

SeedCalibration run_nll_mirror(const Transformer& model, const DrawDocument& draw,
                               const CalibrateOptions& options, std::uint64_t seed) {
  const OneModuleAtATime runs(model, BlockPattern::full(options.pattern.block_size),
                              options.pattern);
  return score("nll-mirror", runs, -1, draw, options, seed);
}

}  // namespace loza::criterion
