#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace loza {

// Bytes of one element of a safetensors dtype ("F32" is 4); 0 for a dtype that is not known.
std::uint64_t safetensors_element_bytes(const std::string& dtype);

// What a tensor will be in the file, known before its data.
struct TensorSlot {
  std::string name;
  std::string dtype;  // safetensors' name: "F32", "BF16", ...
  std::vector<std::int64_t> shape;

  std::uint64_t num_bytes() const;
};

// Writes one safetensors file whose tensors arrive piece by piece, so that none has to be in
// memory whole. The file appears under its name at commit(); without one, nothing is left.
// write() is thread-safe for pieces that do not overlap.
class SafetensorsWriter {
 public:
  // Slots of wider dtypes come first in the file, else in the order given.
  // REQUIRES: names unique, dtypes known. Throws Error(kFailed) with what the system said.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorSlot> slots,
                    const std::map<std::string, std::string>& metadata = {});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // A piece of the slot_idx-th slot (as given to the constructor), from the byte `offset` of
  // its data on.
  void write(std::size_t slot_idx, std::uint64_t offset, std::span<const std::byte> bytes);
  // REQUIRES: every slot's bytes were written.
  void commit();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace loza
