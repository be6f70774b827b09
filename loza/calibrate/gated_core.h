#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "loza/attention/pattern.h"
#include "loza/model/transformer.h"

namespace loza {

// Mixes the two things a module may become, by its gate:
//
//   out = gate * full + (1 - gate) * streaming        (LongCat ZigZag Attention, 2512.23966)
//   d_gate = <d_out, full - streaming>, summed over tokens, heads and values
//
// both from the same queries, keys and values. Mixing and sums are in fp32, or the gates' own
// type where that is wider; out has q's type. A branch whose weight is exactly 0 takes no part:
// at gate 1 out is the full branch bit for bit, and a gate that needs no gradient costs only the
// branches it mixes. Where no sequence is longer than what the pattern sees whole, the branches
// are equal: out is the full branch and the gate's gradient 0.
class GatedCore : public AttentionCore {
 public:
  // gates [modules] floating, on any device; shared, so that an optimiser may change them between
  // passes. They may require a gradient.
  GatedCore(at::Tensor gates, BlockPattern pattern);

  // Both branches take the same queries and keys: those of full modules.
  // REQUIRES: the model rotates full and streaming modules alike.
  BlockPattern pattern(std::int64_t) const override { return BlockPattern::full(); }
  at::Tensor attend(std::int64_t module_idx, const attention::Queries& queries, const at::Tensor& k,
                    const at::Tensor& v, const attention::Sequences& sequences,
                    double scale) override;

 private:
  at::Tensor gates_;
  BlockPattern pattern_;
};

}  // namespace loza
