#include "cli/data_options.h"

#include <CLI/CLI.hpp>

namespace loza::cli {

void add_document_options(CLI::App& command, DataOptions& data) {
  command.add_option("--questions", data.num_questions, "Of a generated document")
      ->capture_default_str();
  command.add_option("--prose", data.prose, "Text that niah hides its needles in");
  command.add_option("--code", data.code, "The same, code");
}

}  // namespace loza::cli
