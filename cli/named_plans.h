#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "loza/attention/pattern.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/evaluate/run.h"
#include "loza/model/transformer.h"

namespace CLI {
class App;
}

// Plans by the names that a command line has for them.
namespace loza::cli {

// What a streaming module sees, and how many modules stream, where the plan's name leaves it
// open.
struct PlanOptions {
  double sparsity = 0.5;
  BlockPattern pattern;
};

// Registers --gates, --sparsity and the pattern's options; their values are the defaults. Both must
// live as long as the command.
void add_plan_options(CLI::App& command, std::vector<std::filesystem::path>& gates,
                      PlanOptions& options);

// "config" (as the model's config.json says), "dense", "streaming" (every module), or a
// criterion that needs no documents: "interleaved", "interleaved-odd", "first", "last",
// "random" or "random:SEED". Throws Error(kUsage) for anything else, Error(kBadInput) for a
// config that can't be read.
NamedPlan plan_by_name(const std::string& name, const Transformer& model,
                       const Checkpoint& checkpoint, const PlanOptions& options);

// The modules with the lowest gates stream. Throws Error(kBadInput).
NamedPlan plan_from_gates(const std::filesystem::path& gates, const Transformer& model,
                          const PlanOptions& options);

}  // namespace loza::cli
