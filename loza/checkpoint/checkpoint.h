#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "loza/base/file.h"
#include "loza/base/json.h"

namespace loza {

// One tensor of a safetensors file, where it lies.
struct TensorEntry {
  std::string name;
  std::string dtype;                 // as in the file: "F32", "BF16", "F16", "I64", ...
  std::vector<std::int64_t> shape;   // rank <= 8
  std::span<const std::byte> bytes;  // in the mapped file; not aligned
};

// One .safetensors file, mapped; validated whole when opened, without reading tensor data.
class SafetensorsFile {
 public:
  // Throws Error(kBadInput): header length, JSON, dtype, shape, offsets (contiguous from 0 to
  // the end of the file), duplicate names.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::map<std::string, TensorEntry>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  MappedFile file_;
  std::map<std::string, TensorEntry> tensors_;
  std::map<std::string, std::string> metadata_;
};

// A Hugging Face model folder, opened lazily: config.json is read, weights are mapped (one
// file, or shards named by model.safetensors.index.json), tensors are looked at one at a
// time. Immutable; thread-safe. Entries stay valid while the Checkpoint lives.
class Checkpoint {
 public:
  // Throws Error(kBadInput); reads nothing outside the folder.
  explicit Checkpoint(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  const Json& config() const { return config_; }
  // null when there is no generation_config.json.
  const Json& generation_config() const { return generation_config_; }

  bool has(const std::string& name) const { return tensors_.count(name) != 0; }
  // Throws Error(kBadInput) when there is no such tensor.
  const TensorEntry& tensor(const std::string& name) const;
  const std::map<std::string, const TensorEntry*>& tensors() const { return tensors_; }
  std::uint64_t tensor_bytes() const;  // of all tensors

 private:
  std::filesystem::path folder_;
  Json config_, generation_config_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const TensorEntry*> tensors_;
};

// Writes one safetensors file: wider dtypes first, so that each tensor is aligned to its
// element, else in the order of `entries`; names unique. Complete or absent
// (write_file_atomic's promise), without holding the tensors in memory again.
void write_safetensors(const std::filesystem::path& path, const std::vector<TensorEntry>& entries,
                       const std::map<std::string, std::string>& metadata = {});

// Writes a model folder's weights: one model.safetensors, or shards of at most
// max_shard_bytes and their index, as transformers does.
void write_weights(const std::filesystem::path& folder, const std::vector<TensorEntry>& entries,
                   std::uint64_t max_shard_bytes = std::uint64_t{5} << 30);

// Copies a model folder with another config.json: every other file byte for byte, sub-folders
// too (weights as hard links where the file system allows). Complete or invisible.
// Throws Error(kUsage) when `target` has files already or lies in `source`, Error(kBadInput)
// when a link leads out of `source`.
void copy_with_config(const std::filesystem::path& source, const std::filesystem::path& target,
                      const Json& config);

// The same with other weights: safetensors files and their index are left behind for one made
// of `entries`.
void copy_with_weights(const std::filesystem::path& source, const std::filesystem::path& target,
                       const std::vector<TensorEntry>& entries);

}  // namespace loza
