#include "cli/group_options.h"

#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string_view>

#include "loza/parallel/join.h"
#include "loza/parallel/launch.h"

namespace loza::cli {

void add_group_options(CLI::App& command, GroupOptions& options) {
  command
      .add_option("--timeout", options.timeout_s,
                  "Of several processes (torchrun): seconds without a sign of life after which one "
                  "is gone and all end")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{86400}))
      ->capture_default_str();
}

void run_in_group(const GroupOptions& options, const std::function<void(Group&)>& body) {
  const auto launch = launch_of_environment();
  if (!launch || launch->size == 1) {
    body(Group::alone());
    return;
  }
  if (launch->rank != 0) spdlog::set_level(spdlog::level::err);
  share_threads(*launch);
  JoinOptions join_options;
  join_options.timeout = std::chrono::seconds(options.timeout_s);
  join_options.meeting = std::max(join_options.meeting, join_options.timeout);
  const std::unique_ptr<Group> group = join(*launch, join_options);
  try {
    body(*group);
    group->leave();
  } catch (const std::exception& error) {
    if (!group->fail(error.what())) spdlog::set_level(spdlog::level::off);
    throw;
  }
}

bool speaks_for_all() {
  const char* const rank = std::getenv("RANK");
  return rank == nullptr || std::getenv("WORLD_SIZE") == nullptr || std::string_view(rank) == "0";
}

}  // namespace loza::cli
