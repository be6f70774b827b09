#include "loza/train/snapshot.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <string_view>
#include <vector>

#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/base/hash.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/checkpoint/tensor.h"

namespace loza {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTensors = "tensors.safetensors";
constexpr const char* kState = "state.json";
constexpr const char* kManifest = "manifest.json";
constexpr std::string_view kPrefix = "step-";

std::string manifest_text(const fs::path& folder) {
  Json manifest;
  for (const char* name : {kTensors, kState}) {
    manifest[name] = {{"bytes", fs::file_size(folder / name)},
                      {"sha256", sha256_file(folder / name)}};
  }
  return manifest.dump(1) + "\n";
}

// The manifest is a function of the other files, so that comparing its text with the one
// made anew finds any change in any file, the manifest's own included.
void verify(const fs::path& folder) {
  const std::string written = read_file(folder / kManifest, /*max_bytes=*/1 << 16);
  for (const char* name : {kTensors, kState}) {
    if (!fs::is_regular_file(folder / name)) {
      throw_bad_input(folder.string(), fmt::format("a file {}", name), "none",
                      "resume from another snapshot");
    }
  }
  if (written != manifest_text(folder)) {
    throw_bad_input(folder.string(), "files as its manifest.json describes them", "other bytes",
                    "resume from another snapshot");
  }
}

// The step in a folder's name; nothing for other names, among them those still being built.
std::optional<std::int64_t> step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  std::int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [stopped, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (error != std::errc() || stopped != end) return std::nullopt;
  return step;
}

// What killed processes were writing: named as a snapshot, with an ending.
std::vector<fs::path> abandoned_snapshots(const fs::path& run) {
  std::vector<fs::path> abandoned;
  if (!fs::is_directory(run)) return abandoned;
  for (const auto& entry : fs::directory_iterator(run)) {
    const fs::path& path = entry.path();
    const bool is_staged = path.extension().string().starts_with(".part");
    if (is_staged && step_of(path.stem())) abandoned.push_back(path);
  }
  return abandoned;
}

// A run's snapshots by step.
std::map<std::int64_t, fs::path> snapshots_of(const fs::path& run) {
  std::map<std::int64_t, fs::path> snapshots;
  if (!fs::is_directory(run)) return snapshots;
  for (const auto& entry : fs::directory_iterator(run)) {
    const auto step = step_of(entry.path());
    if (step && entry.is_directory()) snapshots[*step] = entry.path();
  }
  return snapshots;
}

}  // namespace

void write_snapshot(const fs::path& folder, const Snapshot& snapshot) {
  StagedFolder staged(folder);
  std::vector<TensorEntry> entries;
  for (const auto& [name, tensor] : snapshot.tensors) entries.push_back(entry_of(name, tensor));
  write_safetensors(staged.path() / kTensors, entries);
  write_file_atomic(staged.path() / kState, snapshot.state.dump(1) + "\n");
  write_file_atomic(staged.path() / kManifest, manifest_text(staged.path()));
  staged.commit();
}

Snapshot read_snapshot(const fs::path& folder) {
  verify(folder);
  Snapshot snapshot;
  snapshot.state = parse_json(read_file(folder / kState), (folder / kState).string());
  const SafetensorsFile file(folder / kTensors);
  for (const auto& [name, entry] : file.tensors()) {
    snapshot.tensors.emplace_back(name, load_tensor(entry));
  }
  return snapshot;
}

fs::path snapshot_folder(const fs::path& run, std::int64_t step) {
  return run / fmt::format("{}{:08}", kPrefix, step);
}

std::optional<fs::path> latest_snapshot(const fs::path& run) {
  const std::map<std::int64_t, fs::path> snapshots = snapshots_of(run);
  if (snapshots.empty()) return std::nullopt;
  return snapshots.rbegin()->second;
}

void remove_old_snapshots(const fs::path& run, std::int64_t num_kept) {
  for (const fs::path& folder : abandoned_snapshots(run)) fs::remove_all(folder);
  const std::map<std::int64_t, fs::path> snapshots = snapshots_of(run);
  auto num_old = static_cast<std::int64_t>(snapshots.size()) - num_kept;
  for (auto it = snapshots.begin(); num_old > 0; ++it, --num_old) fs::remove_all(it->second);
}

}  // namespace loza
