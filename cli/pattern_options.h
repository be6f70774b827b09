#pragma once

#include "loza/attention/pattern.h"

namespace CLI {
class App;
}

namespace loza::cli {

// Registers --sink-blocks, --recent-blocks and --block-size of what a streaming module sees;
// the pattern's values are the defaults. `pattern` must live as long as the command.
void add_pattern_options(CLI::App& command, BlockPattern& pattern);

}  // namespace loza::cli
