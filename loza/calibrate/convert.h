#pragma once

#include <filesystem>

#include "loza/model/plan.h"

namespace loza {

// Writes `source` as a ZigZag model: its config.json gets streaming_sparse_attention from the
// plan, every other byte of the folder is the same. A dense plan removes the key.
// Complete or invisible. Throws Error(kBadInput) for a model that can't be read or has another
// number of modules than the plan; Error(kUsage) when `target` has files.
void convert_model(const std::filesystem::path& source, const std::filesystem::path& target,
                   const AttentionPlan& plan);

}  // namespace loza
