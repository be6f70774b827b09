#pragma once

#include <optional>
#include <string>

#include "loza/base/json.h"

namespace loza {

// What a longer context changes of a model's rotary embedding.
struct RopeChange {
  enum class Of {
    kAll,   // one RoPE for all modules
    kFull,  // streaming modules keep the one that they have (plan.h, StreamingRope)
  };

  std::optional<double> theta;   // another base
  std::optional<double> factor;  // YaRN by so much over the original context; 1 removes scaling
  Of of = Of::kAll;
  std::optional<bool> sink_is_capped;  // streaming modules' distance to the sink

  bool is_none() const { return !theta && !factor && !sink_is_capped; }
};

// A copy of a config.json with the change, in both spellings that transformers has had:
// rope_theta with rope_scaling, and rope_parameters. The original context is that of an earlier
// scaling, or max_position_embeddings, which becomes factor times it; an earlier YaRN's betas and
// mscales stay. `place` begins error lines.
// Throws Error(kBadInput) for a config that can't be read, Error(kUsage) for a change that can't
// be: theta not above 1, factor not from 1 to 4096, more than 2^31 positions, streaming modules'
// rotation of a model that has none.
Json with_rope(const Json& config, const RopeChange& change, const std::string& place);

}  // namespace loza
