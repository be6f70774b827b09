#pragma once

#include <functional>
#include <optional>
#include <string>

namespace loza {

// What a launcher such as torchrun tells each process that it starts.
struct Launch {
  int rank = 0, size = 1;
  int local_rank = 0, local_size = 1;  // on this host
  std::string address;                 // where the store that all share listens
  int port = 0;
  bool has_store = false;  // the launcher keeps the store; else rank 0 does
};

// A variable of the environment, or nullptr.
using ReadVariable = std::function<const char*(const char* name)>;

// From RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE (without these two all are on one host),
// MASTER_ADDR, MASTER_PORT and TORCHELASTIC_USE_AGENT_STORE; nothing where neither RANK nor
// WORLD_SIZE is set. Throws Error(kUsage) that names the variable for one that is missing or
// makes no sense.
std::optional<Launch> read_launch(const ReadVariable& read);
std::optional<Launch> launch_of_environment();

// Shares the host's processors among its ranks, unless OMP_NUM_THREADS says how many threads
// each has (as torchrun makes it do).
void share_threads(const Launch& launch);

}  // namespace loza
