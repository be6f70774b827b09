#pragma once

#include "loza/train/data.h"

namespace CLI {
class App;
}

namespace loza::cli {

// Registers --questions, --prose and --code of generated documents. `data` must live as long as
// the command.
void add_document_options(CLI::App& command, DataOptions& data);

}  // namespace loza::cli
