#pragma once

#include <cstdint>
#include <functional>

#include "loza/parallel/group.h"

namespace CLI {
class App;
}

namespace loza::cli {

struct GroupOptions {
  std::int64_t timeout_s = 60;  // of a rank without a sign of life
};

// Registers --timeout. `options` must live as long as the command.
void add_group_options(CLI::App& command, GroupOptions& options);

// Runs the body in the group that a launcher such as torchrun made of this process and others,
// or alone. Rank 0 logs for all; an error that several ranks have is printed by one of them, and
// ends all.
void run_in_group(const GroupOptions& options, const std::function<void(Group&)>& body);

// Whether this process prints what all ranks would print alike: none of a launcher's but rank 0.
bool speaks_for_all();

}  // namespace loza::cli
