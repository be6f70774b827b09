#include "loza/train/finetune.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>

#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/checkpoint/tensor.h"
#include "loza/model/plan.h"
#include "loza/train/prefetch.h"
#include "loza/train/snapshot.h"

namespace loza {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// What a run learns from, in words.
std::string data_name(const FinetuneOptions& options) {
  std::string name = fmt::format("{}; {} questions; {}; {}; loss on {}, texts {}",
                                 options.data.sources, options.data.num_questions,
                                 options.data.prose.string(), options.data.code.string(),
                                 static_cast<int>(options.loss.on), options.loss.text_weight);
  if (options.data.spread_to > 0) {
    name += fmt::format("; {} spread to {}", options.data.spread_share, options.data.spread_to);
  }
  for (const LengthStage& stage : options.curriculum) {
    name += fmt::format("; {}:{}", stage.length, stage.num_steps);
  }
  return name;
}

// Draws each step's documents at the length of its stage.
DrawDocument draw_by_stage(const FinetuneOptions& options, const Tokenizer& tokenizer) {
  struct StageData {
    std::int64_t end;  // the step after its last one
    Data data;
  };
  auto stages = std::make_shared<std::vector<StageData>>();
  TokenizedFiles files(tokenizer);
  std::int64_t end = 0;
  for (const LengthStage& stage : options.curriculum) {
    DataOptions data_options = options.data;
    data_options.length = stage.length;
    end += stage.num_steps;
    stages->push_back({end, Data(data_options, tokenizer, files)});
  }
  const std::int64_t per_step = options.train.documents_per_step;
  return [stages, per_step](std::uint64_t seed, std::int64_t index) {
    const std::int64_t step = index / per_step;
    const auto stage = std::find_if(stages->begin(), stages->end(),
                                    [&](const StageData& s) { return step < s.end; });
    return stage->data.draw(seed, index);
  };
}

// A GPU would wait for its documents; processors make them no faster in threads of their own than
// between steps.
DrawDocument draw_for(at::Device device, const TrainOptions& train, const Group& group,
                      DrawDocument draw) {
  if (device.is_cpu()) return draw;
  PrefetchOptions options;
  const auto processors = static_cast<std::int64_t>(std::thread::hardware_concurrency());
  options.num_threads = std::max<std::int64_t>(1, processors / 2 / group.size());
  options.num_ahead = 2 * train.documents_per_step;
  options.end = train.schedule.num_steps * train.documents_per_step;
  return prefetched(std::move(draw), options);
}

// Weights as the file has them, in fp32, for those that the model holds in less.
NamedTensors masters_of(const Transformer& model, const Checkpoint& checkpoint) {
  NamedTensors masters;
  for (const auto& [name, tensor] : model.parameters()) {
    if (tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble) continue;
    masters.emplace_back(name, load_tensor(checkpoint.tensor(name), at::kFloat));
  }
  return masters;
}

void write_model(const NamedTensors& weights, const Checkpoint& checkpoint,
                 const fs::path& target) {
  std::vector<at::Tensor> kept;
  std::vector<TensorEntry> entries;
  for (const auto& [name, tensor] : weights) {
    const at::ScalarType dtype = scalar_type_of(checkpoint.tensor(name));
    kept.push_back(tensor.detach().cpu().to(dtype).contiguous());
    entries.push_back(entry_of(name, kept.back()));
  }
  copy_with_weights(checkpoint.folder(), target, entries);
}

// Found before hours of work would be lost to it.
void check_folders(const FinetuneOptions& options, const fs::path& target) {
  require_new_folder(target);
  if (options.run.empty() || options.resume) return;
  if (const auto snapshot = latest_snapshot(options.run)) {
    throw_usage(options.run.string(), "a run without snapshots", snapshot->filename().string(),
                "use --resume, or another folder");
  }
}

// Gradients for the time of a run.
class RequiresGrad {
 public:
  explicit RequiresGrad(NamedTensors parameters) : parameters_(std::move(parameters)) { set(true); }
  ~RequiresGrad() { set(false); }
  RequiresGrad(const RequiresGrad&) = delete;
  RequiresGrad& operator=(const RequiresGrad&) = delete;

 private:
  void set(bool requires_grad) {
    for (const auto& [name, tensor] : parameters_) {
      tensor.set_requires_grad(requires_grad && tensor.is_floating_point());
      tensor.mutable_grad().reset();
    }
  }
  NamedTensors parameters_;
};

}  // namespace

std::int64_t num_steps(const std::vector<LengthStage>& curriculum) {
  std::int64_t sum = 0;
  for (const LengthStage& stage : curriculum) sum += stage.num_steps;
  return sum;
}

FinetuneReport finetune(Transformer& model, const Checkpoint& checkpoint,
                        const Tokenizer& tokenizer, const FinetuneOptions& options,
                        const fs::path& target,
                        const std::function<void(const StepReport&)>& after_step, Group& group) {
  check_folders(options, target);
  group.gather(0);  // rank 0 of a run that has no steps left would write the target at once
  const at::AutoGradMode grad_mode(true);
  const RequiresGrad requires_grad(model.parameters());
  PlannedCore core(read_plan(checkpoint.config(), model.config().num_modules(),
                             (checkpoint.folder() / "config.json").string()));
  TrainOptions train = options.train;
  train.schedule.num_steps = num_steps(options.curriculum);
  train.data_name = data_name(options);
  Trainer trainer(
      model.parameters(), train,
      draw_for(model.device(), train, group, draw_by_stage(options, tokenizer)),
      [&](std::span<const TokenizedDocument> documents) {
        return lm_losses(model, documents, core, options.loss);
      },
      masters_of(model, checkpoint), group);

  const auto save = [&] {
    trainer.save(options.run);
    if (group.is_first()) remove_old_snapshots(options.run, options.num_kept);
  };
  if (options.resume) {
    if (const auto snapshot = latest_snapshot(options.run)) {
      trainer.resume(*snapshot);
      spdlog::info("resumed from {}", snapshot->string());
    }
  }
  FinetuneReport report;
  report.first_step = trainer.next_step();
  const auto start = Clock::now();
  trainer.run("training", [&](const StepReport& step) {
    report.steps.push_back(step);
    report.num_tokens += step.num_tokens;
    if (after_step) after_step(step);
    const bool is_due = options.save_every > 0 && (step.step + 1) % options.save_every == 0;
    if (!options.run.empty() && is_due && !trainer.done()) save();
  });
  report.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  report.num_skipped = trainer.num_skipped();
  if (!options.run.empty() && report.first_step < trainer.num_steps()) save();
  if (group.is_first()) write_model(trainer.masters(), checkpoint, target);
  return report;
}

}  // namespace loza
