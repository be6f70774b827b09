#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>

#include "loza/model/config.h"
#include "loza/model/linear.h"
#include "loza/model/rope.h"
#include "loza/model/transformer.h"

namespace loza {

// What all modules of one forward pass share.
struct ForwardContext {
  enum class Mode {
    kCore,     // whole sequences through batch.core
    kPrefill,  // a chunk after what the pages hold
    kDecode,   // a few tokens over the pages
  };

  explicit ForwardContext(const ForwardBatch& batch, const Rope& rope);

  ForwardBatch batch;  // a copy: layers may run again after the pass
  Mode mode;
  attention::Sequences sequences;  // of the new tokens alone
  Rotation rotation;

  std::int64_t num_sequences() const { return sequences.size(); }
  // With pages:
  const BlockPattern& pattern(std::int64_t module_idx) const;
  const PagedKvView& kv(std::int64_t module_idx) const;
};

// One attention instance of the model: projections, rotation, attention, output projection.
class AttentionModule {
 public:
  virtual ~AttentionModule() = default;
  // x [T, hidden], normed -> [T, hidden]. Differentiable in kCore.
  virtual at::Tensor forward(const at::Tensor& x, const ForwardContext& context) const = 0;
};

// `name` as in "model.layers.0.self_attn"; module_idx counts over the whole model.
std::unique_ptr<AttentionModule> make_attention(Weights& weights, const std::string& name,
                                                const ModelConfig& config, std::int64_t module_idx);

}  // namespace loza
