#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/base/json.h"
#include "loza/tokenizer/tokenizer.h"

namespace loza::cli {
namespace {

struct DetokenizeOptions {
  std::string model, ids;
  bool skip_special = false;
};

// An array of ids, or what `loza tokenize --json` prints.
std::vector<std::int64_t> read_ids(const std::string& path) {
  const Json file = parse_json(read_file(path), path);
  const Json& list = file.is_object() && file.contains("ids") ? file["ids"] : file;
  if (!list.is_array()) throw_bad_input(path, "an array of token ids", describe_json(list));
  std::vector<std::int64_t> ids;
  for (const Json& id : list) {
    if (!id.is_number_unsigned()) throw_bad_input(path, "a token id", describe_json(id));
    ids.push_back(id.get<std::int64_t>());
  }
  return ids;
}

void detokenize(const DetokenizeOptions& options) {
  const Tokenizer tokenizer = Tokenizer::from_folder(options.model);
  const std::string bytes = tokenizer.decode(read_ids(options.ids), options.skip_special);
  std::fwrite(bytes.data(), 1, bytes.size(), stdout);
}

}  // namespace

void add_detokenize(CLI::App& app) {
  auto options = std::make_shared<DetokenizeOptions>();
  CLI::App* command =
      app.add_subcommand("detokenize", "Print the text of token ids, byte for byte");
  command->add_option("model", options->model, "Model folder (tokenizer.json)")->required();
  command->add_option("--ids", options->ids, "JSON file: [ids], or {\"ids\": [ids]}")->required();
  command->add_flag("--skip-special", options->skip_special, "Leave special tokens out");
  command->footer("Example: loza detokenize SmolLM2-135M-Instruct --ids ids.json");
  command->callback([options] { detokenize(*options); });
}

}  // namespace loza::cli
