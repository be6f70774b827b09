#include "loza/base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "loza/base/error.h"

namespace loza {
namespace fs = std::filesystem;

void throw_system_error(const fs::path& path, const std::string& expected) {
  const std::string reason = std::strerror(errno);
  throw Error(ExitCode::kFailed, {path.string(), expected, reason, ""});
}

namespace {

// A file descriptor that closes itself.
class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags, mode_t mode = 0)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

void sync_path(const fs::path& path) {
  Descriptor file(path, O_RDONLY);
  if (file.get() < 0 || ::fsync(file.get()) != 0) throw_system_error(path, "to be synced to disk");
}

}  // namespace

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  Descriptor file(path, O_RDONLY | O_NONBLOCK);  // a pipe must not make us wait
  struct stat info {};
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0) {
    throw_bad_input(path.string(), "a readable file", std::strerror(errno));
  }
  if (!S_ISREG(info.st_mode)) throw_bad_input(path.string(), "a regular file", "something else");
  size_ = static_cast<std::size_t>(info.st_size);
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) {
    throw_bad_input(path.string(), "a file that can be mapped", std::strerror(errno));
  }
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      path_(std::move(other.path_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(path_, other.path_);
  return *this;
}

std::string read_file(const fs::path& path, std::uint64_t max_bytes) {
  MappedFile file(path);
  if (file.size() > max_bytes) {
    throw_bad_input(path.string(), fmt::format("at most {} bytes", max_bytes),
                    fmt::format("{}", file.size()));
  }
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

void write_file_atomic(const fs::path& path, std::string_view bytes) {
  const fs::path temporary = path.string() + fmt::format(".part{}", ::getpid());
  try {
    Descriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file.get() < 0) throw_system_error(temporary, "to be created");
    for (std::size_t done = 0; done < bytes.size();) {
      const ssize_t n = ::write(file.get(), bytes.data() + done, bytes.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0)
        throw_system_error(temporary, fmt::format("{} bytes to be written", bytes.size()));
      done += static_cast<std::size_t>(n);
    }
    if (::fsync(file.get()) != 0) throw_system_error(temporary, "to be synced to disk");
    if (::rename(temporary.c_str(), path.c_str()) != 0) throw_system_error(path, "to be replaced");
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
  sync_path(path.has_parent_path() ? path.parent_path() : fs::path("."));
}

void require_new_folder(const fs::path& target) {
  std::error_code ignored;
  if (fs::exists(target, ignored) && !(fs::is_directory(target) && fs::is_empty(target))) {
    throw_usage(target.string(), "a new or empty folder to write to", "one that has files",
                "choose another name or remove it");
  }
}

StagedFolder::StagedFolder(fs::path target) : target_(std::move(target)) {
  if (!target_.has_filename()) target_ = target_.parent_path();
  require_new_folder(target_);
  staging_ = target_.string() + fmt::format(".part{}", ::getpid());
  std::error_code error;
  fs::remove_all(staging_, error);
  fs::create_directories(staging_, error);
  if (error) {
    throw Error(ExitCode::kFailed,
                {staging_.string(), "a folder that can be created", error.message(), ""});
  }
}

StagedFolder::~StagedFolder() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(staging_, ignored);
}

void StagedFolder::commit() {
  for (const auto& entry : fs::recursive_directory_iterator(staging_)) {
    if (entry.is_regular_file() || entry.is_directory()) sync_path(entry.path());
  }
  sync_path(staging_);
  std::error_code error;
  fs::remove(target_, error);  // an empty folder, as the constructor saw it
  fs::rename(staging_, target_, error);
  if (error) {
    throw Error(ExitCode::kFailed,
                {target_.string(), "a folder that can be put in place", error.message(), ""});
  }
  committed_ = true;
  sync_path(target_.has_parent_path() ? target_.parent_path() : fs::path("."));
}

}  // namespace loza
