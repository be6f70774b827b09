#pragma once

#include <filesystem>
#include <optional>

#include "loza/model/plan.h"
#include "loza/model/rope_scaling.h"

namespace loza {

// What a conversion changes, all of it in config.json.
struct Conversion {
  std::optional<AttentionPlan> plan;  // streaming_sparse_attention; a dense plan removes the key
  RopeChange rope;
};

// Writes `source` with another config.json; every other byte of the folder is the same.
// Complete or invisible. Throws Error(kBadInput) for a model that can't be read or has another
// number of modules than the plan; Error(kUsage) when `target` has files.
void convert_model(const std::filesystem::path& source, const std::filesystem::path& target,
                   const Conversion& conversion);

}  // namespace loza
