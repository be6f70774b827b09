#include "cli/data_options.h"

#include <CLI/CLI.hpp>

namespace loza::cli {

void add_document_options(CLI::App& command, DataOptions& data) {
  command
      .add_option("--questions", data.num_questions,
                  "Of a generated document; the first of several shows the form: it is trained on, "
                  "but not scored")
      ->capture_default_str();
  command.add_option("--prose", data.prose, "Text that needles are hidden in, and for ppl");
  command.add_option("--code", data.code, "The same, code: for niah and ppl-code");
}

}  // namespace loza::cli
