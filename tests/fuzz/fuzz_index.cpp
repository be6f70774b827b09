// A model.safetensors.index.json beside two shards: refused with Error(kBadInput), or it places
// every tensor of the shards that it names.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "loza/base/error.h"
#include "loza/checkpoint/checkpoint.h"

namespace {

// The folder, with all but the index; one for the whole run, in memory where there is room.
class Folder {
 public:
  Folder() {
    const bool in_memory = std::filesystem::is_directory("/dev/shm");
    std::string name = std::string(in_memory ? "/dev/shm" : "/tmp") + "/loza-fuzz-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
    std::ofstream(path_ / "config.json") << "{}";
    const float one = 1;
    const auto bytes = std::as_bytes(std::span(&one, 1));
    loza::write_safetensors(path_ / "1", {{"a", "F32", {1}, bytes}, {"b", "F32", {1}, bytes}});
    loza::write_safetensors(path_ / "2", {{"c", "F32", {1}, bytes}});
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Folder folder;
  std::ofstream(folder.path() / "model.safetensors.index.json", std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  try {
    const loza::Checkpoint checkpoint(folder.path());
    if (checkpoint.has("a") != checkpoint.has("b")) std::abort();
  } catch (const loza::Error& e) {
    if (e.code() != loza::ExitCode::kBadInput) std::abort();
  }
  return 0;
}
