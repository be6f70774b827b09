#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/commands.h"
#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/base/json.h"
#include "loza/tokenizer/tokenizer.h"

namespace loza::cli {
namespace {

struct TokenizeOptions {
  std::string model, text;
  bool json = false, lines = false, text_only = false;
};

std::string json_string(std::string_view line, const std::string& place) {
  const Json value = parse_json(line, place);
  if (!value.is_string()) throw_bad_input(place, "a JSON string", describe_json(value));
  return value.get<std::string>();
}

// The lines of a file, without their newlines; of a .jsonl file the strings that they are.
std::vector<std::string> lines_of(std::string_view text, const std::filesystem::path& path) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    lines.push_back(path.extension() == ".jsonl"
                        ? json_string(line, fmt::format("{}:{}", path.string(), lines.size() + 1))
                        : std::string(line));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

void print_ids(const std::vector<std::int64_t>& ids, bool json) {
  if (json) {
    fmt::print("{{\"ids\": [{}]}}\n", fmt::join(ids, ", "));
  } else {
    fmt::print("{}\n", fmt::join(ids, " "));
  }
}

void tokenize(const TokenizeOptions& options) {
  const Tokenizer tokenizer = Tokenizer::from_folder(options.model);
  const std::string text = read_file(options.text);
  const auto special =
      options.text_only ? Tokenizer::Special::kAsText : Tokenizer::Special::kAsControl;
  if (!options.lines) return print_ids(tokenizer.encode(text, special), options.json);
  for (const std::string& line : lines_of(text, options.text)) {
    print_ids(tokenizer.encode(line, special), options.json);
  }
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command = app.add_subcommand(
      "tokenize",
      "Print the token ids of a text, as Hugging Face's encode(add_special_tokens=False) gives "
      "them");
  command->add_option("model", options->model, "Model folder (tokenizer.json)")->required();
  command->add_option("--text", options->text, "File with the text")->required();
  command->add_flag("--json", options->json, "Print {\"ids\": [...]}");
  command->add_flag(
      "--lines", options->lines,
      "Each line of the file is a text by itself, without its newline; in a .jsonl file "
      "a JSON string");
  command->add_flag("--as-text", options->text_only,
                    "Treat the spelling of a special token (<|im_end|>) as any other text, as "
                    "what users type is treated");
  command->footer("Example: loza tokenize SmolLM2-135M-Instruct --text notes.txt --json");
  command->callback([options] { tokenize(*options); });
}

}  // namespace loza::cli
