#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace loza {

// Error(kFailed) about `path` with what errno says. Call right after the failed system call.
[[noreturn]] void throw_system_error(const std::filesystem::path& path,
                                     const std::string& expected);

// A file mapped read-only; the bytes stay valid while the object lives, and are paged in
// only when touched. Movable. Thread-safe to read.
class MappedFile {
 public:
  MappedFile() = default;
  // Throws Error(kBadInput) when the file can't be opened or is not a regular file.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::uint64_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::filesystem::path path_;
};

// The whole file. Throws Error(kBadInput) when it can't be read or exceeds max_bytes.
std::string read_file(const std::filesystem::path& path,
                      std::uint64_t max_bytes = std::uint64_t{1} << 30);

// Writes beside the target, syncs, renames over it: readers see the old file or the new
// one, never a part. Throws Error(kFailed) with what the system said.
void write_file_atomic(const std::filesystem::path& path, std::string_view bytes);

// Throws Error(kUsage) when the target exists and is not an empty folder.
void require_new_folder(const std::filesystem::path& target);

// A folder that appears whole or not at all: build it at path(), then commit() syncs every
// file and renames the folder into place. Destroyed without commit(), it is removed.
// Throws Error(kUsage) when the target exists and is not an empty folder.
class StagedFolder {
 public:
  explicit StagedFolder(std::filesystem::path target);
  ~StagedFolder();
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;

  const std::filesystem::path& path() const { return staging_; }
  void commit();

 private:
  std::filesystem::path target_, staging_;
  bool committed_ = false;
};

}  // namespace loza
