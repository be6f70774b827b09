#pragma once

#include <optional>
#include <string>

#include "loza/base/json.h"

namespace loza {

// What a longer context changes of a model's rotary embedding.
struct RopeChange {
  std::optional<double> theta;   // another base
  std::optional<double> factor;  // YaRN by so much over the original context; 1 removes scaling

  bool is_none() const { return !theta && !factor; }
};

// A copy of a config.json with the change, in both spellings that transformers has had:
// rope_theta with rope_scaling, and rope_parameters. The original context is that of an earlier
// scaling, or max_position_embeddings, which becomes factor times it; an earlier YaRN's betas and
// mscales stay. `place` begins error lines.
// Throws Error(kBadInput) for a config that can't be read, Error(kUsage) for a change that can't
// be: theta not above 1, factor not from 1 to 4096, more than 2^31 positions.
Json with_rope(const Json& config, const RopeChange& change, const std::string& place);

}  // namespace loza
