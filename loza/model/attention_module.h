#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "loza/model/config.h"
#include "loza/model/linear.h"
#include "loza/model/rope.h"
#include "loza/model/transformer.h"

namespace loza {

// How the queries and keys of one module's tokens are rotated and scored.
struct ModuleRotation {
  Rotation rotation;                      // of queries and keys
  std::optional<Rotation> of_sink_query;  // of the queries that the sink is scored by
  double softmax_scale = 1;

  // Queries [T, H, nope + P] as the projections make them, the elements from `prefix` on rotated.
  attention::Queries rotate_queries(const at::Tensor& q, std::int64_t prefix = 0) const;
};

// The model's rotations: of full modules, and of streaming ones.
struct Ropes {
  Rope full, streaming;
};

// What all modules of one forward pass share.
struct ForwardContext {
  enum class Mode {
    kCore,     // whole sequences through batch.core
    kPrefill,  // a chunk after what the pages hold
    kDecode,   // a few tokens over the pages
  };

  ForwardContext(const ForwardBatch& batch, const ModelConfig& config, const Ropes& ropes);

  ForwardBatch batch;  // a copy: layers may run again after the pass
  Mode mode;
  attention::Sequences sequences;  // of the new tokens alone

  std::int64_t num_sequences() const { return sequences.size(); }
  BlockPattern pattern(std::int64_t module_idx) const;
  const ModuleRotation& rotation(std::int64_t module_idx) const;
  const PagedKvView& kv(std::int64_t module_idx) const;  // with pages

  // Mode kDecode: leaves the new tokens' rows [T, row] in the module's pages, then attends over
  // them: queries [T, H, D] -> [T, H, V].
  at::Tensor decode(std::int64_t module_idx, const attention::Queries& queries,
                    const at::Tensor& rows, std::int64_t num_key_heads, std::int64_t v_size) const;

 private:
  ModuleRotation full_;
  std::vector<std::pair<BlockPattern, ModuleRotation>> streaming_;  // one a pattern
};

// One attention instance of the model: projections, rotation, attention, output projection.
class AttentionModule {
 public:
  virtual ~AttentionModule() = default;
  // residual + what attention makes of x, normed; both [T, hidden]. Differentiable in kCore.
  virtual at::Tensor add(const at::Tensor& residual, const at::Tensor& x,
                         const ForwardContext& context) const = 0;
};

// `name` as in "model.layers.0.self_attn"; module_idx counts over the whole model.
std::unique_ptr<AttentionModule> make_attention(Weights& weights, const std::string& name,
                                                const ModelConfig& config, std::int64_t module_idx);

}  // namespace loza
