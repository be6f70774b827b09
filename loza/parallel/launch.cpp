#include "loza/parallel/launch.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "loza/base/error.h"
#include "loza/base/parallel_for.h"

namespace loza {
namespace {

constexpr const char* kRemedy =
    "start the processes with torchrun, or unset RANK and WORLD_SIZE to run a single one";

[[noreturn]] void throw_variable(const char* name, const std::string& expected, const char* value) {
  throw_usage(fmt::format("environment variable {}", name), expected,
              value == nullptr ? "none" : fmt::format("'{}'", value), kRemedy);
}

// The variable's value in [lowest, highest].
int read_number(const ReadVariable& read, const char* name, int lowest, int highest) {
  const char* const value = read(name);
  const std::string_view text = value == nullptr ? "" : value;
  int number = 0;
  const auto [stopped, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool is_number =
      !text.empty() && error == std::errc() && stopped == text.data() + text.size();
  if (!is_number || number < lowest || number > highest) {
    throw_variable(name, fmt::format("a whole number from {} to {}", lowest, highest), value);
  }
  return number;
}

int read_number_or(const ReadVariable& read, const char* name, int lowest, int highest,
                   int otherwise) {
  return read(name) == nullptr ? otherwise : read_number(read, name, lowest, highest);
}

}  // namespace

std::optional<Launch> read_launch(const ReadVariable& read) {
  constexpr int kMostRanks = 1 << 20;
  if (read("RANK") == nullptr && read("WORLD_SIZE") == nullptr) return std::nullopt;
  Launch launch;
  launch.size = read_number(read, "WORLD_SIZE", 1, kMostRanks);
  launch.rank = read_number(read, "RANK", 0, launch.size - 1);
  launch.local_size = read_number_or(read, "LOCAL_WORLD_SIZE", 1, launch.size, launch.size);
  launch.local_rank =
      read_number_or(read, "LOCAL_RANK", 0, launch.local_size - 1, launch.rank % launch.local_size);
  if (launch.size == 1) return launch;
  const char* const address = read("MASTER_ADDR");
  if (address == nullptr || *address == '\0') {
    throw_variable("MASTER_ADDR", "the host of rank 0", address);
  }
  launch.address = address;
  launch.port = read_number(read, "MASTER_PORT", 1, 65535);
  const char* const has_store = read("TORCHELASTIC_USE_AGENT_STORE");
  launch.has_store = has_store != nullptr && std::string_view(has_store) == "True";
  return launch;
}

std::optional<Launch> launch_of_environment() {
  return read_launch([](const char* name) -> const char* { return std::getenv(name); });
}

void share_threads(const Launch& launch) {
  if (launch.local_size == 1 || std::getenv("OMP_NUM_THREADS") != nullptr) return;
  const int share = std::max(1, num_threads() / launch.local_size);
  set_num_threads(share);
  at::set_num_threads(share);
}

}  // namespace loza
