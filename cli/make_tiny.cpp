#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "loza/model/transformer.h"

namespace loza::cli {
namespace {

struct MakeTinyOptions {
  std::string family = "llama";
  std::filesystem::path out;
  std::uint64_t seed = 0;
};

}  // namespace

void add_make_tiny(CLI::App& app) {
  auto options = std::make_shared<MakeTinyOptions>();
  CLI::App* command = app.add_subcommand(
      "make-tiny",
      "Write a small random checkpoint with its tokenizer: everything runs on it, nothing is "
      "downloaded");
  command->add_option("out", options->out, "Folder to write")->required();
  command
      ->add_option("--family", options->family, fmt::format("{}", fmt::join(tiny_families(), ", ")))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "The same seed gives the same bytes")
      ->capture_default_str();
  command->footer("Example: loza make-tiny tiny --family qwen3 --seed 1");
  command->callback([options] {
    make_tiny(options->family, options->out, options->seed);
    fmt::print("{}\n", options->out.string());
  });
}

}  // namespace loza::cli
