#include "cli/pattern_options.h"

#include <CLI/CLI.hpp>
#include <cstdint>

namespace loza::cli {

void add_pattern_options(CLI::App& command, BlockPattern& pattern) {
  constexpr std::int64_t kMost = std::int64_t{1} << 20;
  command.add_option("--sink-blocks", pattern.sink_blocks, "First blocks that are always seen")
      ->check(CLI::Range(std::int64_t{0}, kMost))
      ->capture_default_str();
  command
      .add_option("--recent-blocks", pattern.recent_blocks,
                  "Last blocks that are seen, the query's own among them")
      ->check(CLI::Range(std::int64_t{1}, kMost))
      ->capture_default_str();
  command.add_option("--block-size", pattern.block_size, "Tokens of a block")
      ->check(CLI::Range(std::int64_t{1}, kMost))
      ->capture_default_str();
}

}  // namespace loza::cli
