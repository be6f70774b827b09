#pragma once

#include <string>

#include "loza/checkpoint/checkpoint.h"
#include "loza/model/transformer.h"
#include "loza/parallel/group.h"

namespace CLI {
class App;
}

namespace loza::cli {

// Where a command's model runs, and in which numbers.
struct ModelOptions {
  std::string dtype = "auto", device = "cpu", weights = "auto";
};

// Registers --dtype and --device. `options` must live as long as the command.
void add_model_options(CLI::App& command, ModelOptions& options);

// Registers --weights, for commands that run a model and do not change it.
void add_weights_option(CLI::App& command, ModelOptions& options);

// Throws Error(kUsage) for options that make no sense here; see Transformer::load. In a group of
// several processes "cuda" is each one's own device.
Transformer load_model(const Checkpoint& checkpoint, const ModelOptions& options,
                       const Group& group = Group::alone());

}  // namespace loza::cli
