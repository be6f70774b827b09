#pragma once

#include <filesystem>
#include <optional>

#include "loza/base/json.h"
#include "loza/train/optimizer.h"

namespace loza {

// A run at a step: its tensors (parameters and optimiser) and its counters.
struct Snapshot {
  NamedTensors tensors;  // contiguous, CPU
  Json state;
};

// Writes a folder of tensors.safetensors, state.json and manifest.json (size and SHA-256 of
// the others): complete, or invisible, wherever the process is killed.
// Throws Error(kUsage) when the folder exists and has files; Error(kFailed) when the system
// refuses.
void write_snapshot(const std::filesystem::path& folder, const Snapshot& snapshot);

// Throws Error(kBadInput) when anything in the folder is not what was written, to the byte.
Snapshot read_snapshot(const std::filesystem::path& folder);

// Where snapshots of a run lie: RUN/step-00000020.
std::filesystem::path snapshot_folder(const std::filesystem::path& run, std::int64_t step);
// The one of the highest step; nothing when the run has none.
std::optional<std::filesystem::path> latest_snapshot(const std::filesystem::path& run);
// Removes all but the num_kept newest, and what killed processes left unfinished.
// REQUIRES: nobody writes a snapshot of the run.
void remove_old_snapshots(const std::filesystem::path& run, std::int64_t num_kept);

}  // namespace loza
