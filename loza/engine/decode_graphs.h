#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "loza/engine/step_runner.h"

namespace loza {

// Steps of one token a sequence as CUDA graphs, one for each number of sequences and each power of
// two that bounds their lengths. A step is copied into the device as a few numbers a sequence
// (token, position, length, row) and, when they changed, the page tables.
//
// A shape's first step runs without a graph, and warms up what must not be first used while a
// graph is captured; its second captures it.
class DecodeGraphs {
 public:
  virtual ~DecodeGraphs() = default;

  // Null where steps cannot be captured: another device than a Hopper GPU, a build without its
  // kernels, sizes or a dtype that they do not take, experts (the host counts their tokens), or
  // LOZA_CUDA_GRAPHS=0 in the environment, to compare or to rule graphs out.
  static std::unique_ptr<DecodeGraphs> make_if_possible(const Transformer& model,
                                                        const AttentionPlan& plan, KvCache& cache);

  // -> [B, vocab] fp32 on the device. REQUIRES: tokens.is_one_each(), in inference mode.
  virtual at::Tensor logits(const StepTokens& tokens) = 0;
  virtual std::int64_t num_replays() const = 0;
};

}  // namespace loza
