#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "loza/attention/pattern.h"
#include "loza/base/json.h"

namespace loza {

// The pattern of each attention module of a model, and where it came from.
struct AttentionPlan {
  std::vector<BlockPattern> patterns;  // [modules]
  std::string origin;                  // "dense", "config.json", "alpha, 3 seeds", ...

  static AttentionPlan dense(std::int64_t num_modules);
  // streaming[i]: module i gets `pattern`, the others are full.
  static AttentionPlan from_choice(const std::vector<bool>& streaming, const BlockPattern& pattern,
                                   std::string origin);

  std::int64_t num_modules() const { return static_cast<std::int64_t>(patterns.size()); }
  std::int64_t num_streaming() const;
  // '1' = streaming, '0' = full, one character a module: `layer_type` of released checkpoints.
  std::string layer_type() const;
};

// Reads `streaming_sparse_attention` of a config.json; without the key the plan is dense.
//   {"sink_size": 128, "recent_size": 896, "sparsity": 0.5, "layer_type": "0110...",
//    "block_size": 128}
// Sizes are tokens and become blocks by ceil(size / block_size); block_size is absent where
// it is 128; recent_size absent means 256, as in the released engine.
// Throws Error(kBadInput).
AttentionPlan read_plan(const Json& config, std::int64_t num_modules, const std::string& place);

// How streaming modules rotate where they differ from the full ones; fields of the same key:
//   "rope_parameters": {...}    as transformers spells them; absent: the model's own RoPE. They let
//                               full modules be stretched while streaming ones, which never look
//                               further than their window, stay as they were trained.
//   "sink_distance": "capped"   the sink stands directly before the window's first block, however
//                               far the query is; absent, or "absolute": where it is.
struct StreamingRope {
  std::optional<Json> rope_parameters;
  bool sink_is_capped = false;
};

// Throws Error(kBadInput). What the parameters hold is read by read_model_config.
StreamingRope read_streaming_rope(const Json& config, const std::string& place);

// A copy of `config` with its streaming modules' rotation set. REQUIRES: it has the key.
Json with_streaming_rope(const Json& config, const StreamingRope& rope);

// A copy of `config` with the key set from the plan (removed when the plan is dense); fields of
// StreamingRope stay.
// REQUIRES: all streaming modules share one pattern.
Json with_plan(const Json& config, const AttentionPlan& plan);

}  // namespace loza
