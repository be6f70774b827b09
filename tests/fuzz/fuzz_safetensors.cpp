// A .safetensors file: refused with Error(kBadInput), or its tensors tile the data.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "loza/base/error.h"
#include "loza/checkpoint/checkpoint.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static loza::fuzz::MemoryFile file;
  file.replace(data, size);
  try {
    const loza::SafetensorsFile tensors(file.path());
    std::uint64_t num_header_bytes = 0;
    std::memcpy(&num_header_bytes, data, sizeof num_header_bytes);
    std::uint64_t num_data_bytes = 0;
    volatile std::byte touched{};
    for (const auto& [name, entry] : tensors.tensors()) {
      num_data_bytes += entry.bytes.size();
      for (const std::byte byte : entry.bytes) touched = byte;
    }
    static_cast<void>(touched);
    if (8 + num_header_bytes + num_data_bytes != size) std::abort();
  } catch (const loza::Error& e) {
    if (e.code() != loza::ExitCode::kBadInput) std::abort();
  }
  return 0;
}
