// alpha: one learnable gate a module, all weights frozen (LongCat ZigZag Attention, arXiv
// 2512.23966). Start at the full model; what a gate's fall costs pushes it back, the L1 term
// pulls it down. Loss and optimiser follow DuoAttention (arXiv 2410.10819) where LoZA's paper
// is silent; docs/calibration.md has what was measured.
#include <fmt/format.h>
#include <torch/torch.h>

#include <vector>

#include "loza/calibrate/criteria/criteria.h"
#include "loza/calibrate/gated_core.h"
#include "loza/calibrate/losses.h"
#include "loza/train/loop.h"

namespace loza::criterion {
namespace {

Schedule schedule_of(const CalibrateOptions& options) {
  Schedule schedule;
  schedule.peak = options.lr;
  schedule.num_steps = options.num_steps;
  if (options.lr_decay == CalibrateOptions::LrDecay::kTrapezoid) {
    schedule.warmup_steps = schedule.decay_steps = options.num_steps / 5;
    schedule.decay = Schedule::Decay::kLinear;
  }
  return schedule;
}

// The learnt gates and the two ways to run the model that their loss compares.
class Gates {
 public:
  Gates(const Transformer& model, const CalibrateOptions& options)
      : model_(model),
        options_(options),
        values_(at::full({model.config().num_modules()}, options.start,
                         at::TensorOptions(at::kFloat).device(model.device()))
                    .requires_grad_()),
        mixed_(values_, options.pattern),
        full_(AttentionPlan::dense(model.config().num_modules())) {}

  at::Tensor& values() { return values_; }

  at::Tensor loss(const TokenizedDocument& document) {
    const AnswerRows answers = answer_rows(document, model_.device());
    return data_loss(document, answers) + options_.l1 * values_.abs().mean();
  }

  // Keeps the gates where they mean a mixture.
  void clamp() {
    const at::NoGradGuard no_grad;
    if (options_.clamp) values_.clamp_(0, 1);
  }

 private:
  at::Tensor data_loss(const TokenizedDocument& document, const AnswerRows& answers) {
    const at::Tensor hidden = answer_hidden(model_, document, answers, mixed_);
    if (options_.loss == CalibrateOptions::Loss::kLm) {
      return lm_loss(model_, hidden, answers.targets);
    }
    const at::NoGradGuard no_grad_for_the_teacher;
    const at::Tensor teacher = answer_hidden(model_, document, answers, full_);
    const at::AutoGradMode grad_for_the_loss(true);
    return distill_loss(hidden, teacher);
  }

  const Transformer& model_;
  const CalibrateOptions& options_;
  at::Tensor values_;  // [modules] fp32
  GatedCore mixed_;
  PlannedCore full_;
};

std::vector<double> to_doubles(const at::Tensor& tensor) {
  const at::Tensor values = tensor.detach().to(at::kCPU, at::kDouble).contiguous();
  return {values.data_ptr<double>(), values.data_ptr<double>() + values.numel()};
}

std::vector<double> mean_of(const std::vector<std::vector<double>>& rows) {
  std::vector<double> mean(rows[0].size(), 0.0);
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < mean.size(); ++i) {
      mean[i] += row[i] / static_cast<double>(rows.size());
    }
  }
  return mean;
}

}  // namespace

SeedCalibration run_alpha(const Transformer& model, const DrawDocument& draw,
                          const CalibrateOptions& options, std::uint64_t seed, Group& group) {
  const at::AutoGradMode grad_mode(true);
  Gates gates(model, options);
  TrainOptions train;
  train.seed = seed;
  train.documents_per_step = options.documents_per_step;
  train.schedule = schedule_of(options);
  Trainer trainer(
      {{"alpha", gates.values()}}, train, draw,
      one_by_one([&](const TokenizedDocument& document) { return gates.loss(document); }), {},
      group);

  SeedCalibration result;
  trainer.run(fmt::format("calibrating alpha, seed {}", seed), [&](const StepReport& step) {
    gates.clamp();
    result.losses.push_back(step.loss);
    result.trajectory.push_back(to_doubles(gates.values()));
  });
  result.alpha = options.average ? mean_of(result.trajectory) : result.trajectory.back();
  return result;
}

}  // namespace loza::criterion
