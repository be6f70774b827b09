#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "loza/parallel/group.h"
#include "loza/train/data.h"
#include "loza/train/optimizer.h"
#include "loza/train/schedule.h"

namespace loza {

struct TrainOptions {
  std::uint64_t seed = 0;               // of what the steps draw
  std::string data_name;                // what they draw from: a resumed run must have the same
  std::int64_t documents_per_step = 1;  // gradients are their mean
  // Documents that share a forward and a backward pass: as many as have at most so many tokens
  // together, and one at least.
  std::int64_t tokens_per_pass = 0;
  double clip_norm = 0;            // gradients are scaled down to this norm; 0: never
  std::int64_t max_bad_steps = 3;  // in a row, then the run ends
  OptimizerOptions optimizer;
  Schedule schedule;  // num_steps among it
};

// What a step did.
struct StepReport {
  std::int64_t step = 0;
  double loss = 0;                             // mean of the documents'
  std::map<std::string, double> loss_by_kind;  // means of the documents' of a kind
  double grad_norm = 0;                        // before clipping
  double lr = 0;
  std::int64_t num_tokens = 0;
  bool skipped = false;  // loss or gradient was not finite: nothing was updated
};

// The optimisation loop: draws documents, takes a loss, follows its gradient. It knows neither
// the model nor what is trained: parameters and loss come from the caller. In a group of several
// processes each has a trainer of its own; document i of a step is of rank i modulo the group's
// size, and all report and update alike, as one process would. Not thread-safe.
class Trainer {
 public:
  // The losses of the documents of one pass, [documents], differentiable in the parameters.
  using LossFn = std::function<at::Tensor(std::span<const TokenizedDocument>)>;

  // Parameters are leaf tensors on the CPU or a device, updated in place, each requiring a
  // gradient; `masters` as in Optimizer. `group` must outlive the trainer; its ranks call the
  // same members in the same order.
  Trainer(NamedTensors parameters, TrainOptions options, DrawDocument draw, LossFn loss,
          NamedTensors masters = {}, Group& group = Group::alone());

  std::int64_t num_steps() const { return options_.schedule.num_steps; }
  std::int64_t next_step() const { return step_; }
  std::int64_t num_skipped() const { return num_skipped_; }
  bool done() const { return step_ >= num_steps(); }
  // The parameters at full width (Optimizer::masters).
  const NamedTensors& masters() const { return optimizer_.masters(); }

  // One step. The first throws Error(kFailed) if the group's ranks do not run the same thing from
  // the same step. Where loss or gradient is not finite the update is skipped and counted; the
  // third time in a row (max_bad_steps) it throws Error(kFailed) that says what was seen.
  // REQUIRES: !done().
  StepReport step();

  // All steps that are left, with a progress bar; after_step may be empty.
  void run(const std::string& title, const std::function<void(const StepReport&)>& after_step);

  // Everything that the next step depends on, in snapshot_folder(run, next_step()); rank 0 writes
  // it. Steps after resume() are bit-equal to those of a run that was never interrupted, with as
  // many processes; any number can resume.
  void save(const std::filesystem::path& run) const;
  // Continues from a folder that save() made. Throws Error(kBadInput) for a damaged one, or
  // one of other parameters or options.
  void resume(const std::filesystem::path& folder);

 private:
  struct StepDocuments {
    std::vector<std::string> kinds;          // of all ranks'
    std::vector<TokenizedDocument> of_rank;  // those that this rank runs
    std::int64_t num_tokens = 0;             // of all ranks'
  };

  void require_agreement();
  StepDocuments draw_documents() const;
  // Adds the rank's gradients up; returns the losses of all ranks' documents, in order.
  std::vector<double> run_documents(const std::vector<TokenizedDocument>& of_rank);
  // Sums gradients over the step's documents; fills loss, grad_norm and num_tokens.
  void accumulate(StepReport& report);
  void note_bad_step(const StepReport& report);

  TrainOptions options_;
  DrawDocument draw_;
  LossFn loss_;
  Optimizer optimizer_;
  Group* group_;
  bool agreed_ = false;  // the ranks, on what they run
  std::int64_t step_ = 0;
  std::int64_t num_skipped_ = 0;
  std::int64_t bad_in_a_row_ = 0;
};

// The losses of documents that are run one by one.
Trainer::LossFn one_by_one(std::function<at::Tensor(const TokenizedDocument&)> loss);

}  // namespace loza
