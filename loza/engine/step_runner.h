#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "loza/engine/kv_cache.h"
#include "loza/model/plan.h"
#include "loza/model/transformer.h"

namespace loza {

// The new tokens of one step, a sequence's after the other's.
struct StepTokens {
  std::vector<std::int64_t> ids;            // [T]
  std::vector<std::int64_t> positions;      // [T], what RoPE rotates by
  std::vector<std::int64_t> places;         // [T] or empty: ForwardBatch::places
  std::vector<std::int64_t> offsets = {0};  // [B+1]
  std::vector<KvSequence> sequences;        // [B]; their lengths include the new tokens

  bool is_one_each() const { return ids.size() == sequences.size(); }
};

class DecodeGraphs;

// Runs the tokens of open sequences through the model, over the pages of a cache. Where a step is
// one token a sequence and the device can, it is captured as a CUDA graph when its shape comes
// again (decode_graphs.h): launching its operations one by one takes the host several times as
// long as they take the GPU.
//
// Not thread-safe: one thread owns it. All that it is given must outlive it.
class StepRunner {
 public:
  StepRunner(const Transformer& model, const AttentionPlan& plan, KvCache& cache);
  ~StepRunner();
  StepRunner(const StepRunner&) = delete;
  StepRunner& operator=(const StepRunner&) = delete;

  // -> logits [rows, vocab] fp32 on the model's device, of the tokens `rows` of the step.
  at::Tensor logits(const StepTokens& tokens, const std::vector<std::int64_t>& rows);

  // Steps that a captured graph ran.
  std::int64_t num_replays() const;

 private:
  const Transformer& model_;
  const AttentionPlan& plan_;
  KvCache& cache_;
  std::unique_ptr<DecodeGraphs> graphs_;  // null where there are none
};

}  // namespace loza
