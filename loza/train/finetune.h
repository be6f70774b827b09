#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "loza/checkpoint/checkpoint.h"
#include "loza/model/transformer.h"
#include "loza/tokenizer/tokenizer.h"
#include "loza/train/data.h"
#include "loza/train/lm_loss.h"
#include "loza/train/loop.h"

namespace loza {

// Steps whose generated documents, and windows of plain texts, have one length.
struct LengthStage {
  std::int64_t length = 2048;  // tokens
  std::int64_t num_steps = 0;
};

// Of all stages together.
std::int64_t num_steps(const std::vector<LengthStage>& curriculum);

struct FinetuneOptions {
  DataOptions data;                     // its length is not used
  std::vector<LengthStage> curriculum;  // together the run's steps
  TrainOptions train;                   // schedule.num_steps is the curriculum's
  LmLossOptions loss;
  std::filesystem::path run;    // folder of snapshots; empty: none are written
  std::int64_t save_every = 0;  // steps between snapshots; 0: only at the end
  std::int64_t num_kept = 2;    // older snapshots are removed
  bool resume = false;          // from the newest snapshot in `run`, if there is one
};

// What a run has done, or has done since it was resumed.
struct FinetuneReport {
  std::vector<StepReport> steps;
  std::int64_t first_step = 0;
  std::int64_t num_skipped = 0;
  std::int64_t num_tokens = 0;
  double seconds = 0;
};

// Trains every weight of a model under its attention plan, and writes the result to `target`: the
// checkpoint's folder with other weights, each in the dtype that it had. after_step may be empty.
// The model's parameters are changed in place; where it computes in less than fp32, fp32 masters
// begin as the checkpoint's weights. All ranks of `group` call it and report alike; rank 0 writes.
// Throws Error: see Data, Trainer, copy_with_weights.
FinetuneReport finetune(Transformer& model, const Checkpoint& checkpoint,
                        const Tokenizer& tokenizer, const FinetuneOptions& options,
                        const std::filesystem::path& target,
                        const std::function<void(const StepReport&)>& after_step,
                        Group& group = Group::alone());

}  // namespace loza
