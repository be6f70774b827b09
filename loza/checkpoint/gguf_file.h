#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "loza/base/file.h"
#include "loza/checkpoint/dequantize.h"

// The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
namespace loza {

// Types of metadata values, numbered as in the file.
enum class GgufType : std::uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// A metadata value where it lies in the file: checked for its bounds, not decoded.
struct GgufValue {
  GgufType type = GgufType::kU8;
  GgufType item_type = GgufType::kU8;  // of an array
  std::uint64_t num_items = 1;         // of an array; else 1
  std::span<const std::byte> bytes;    // the value's, or all items'
};

struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<std::int64_t> shape;   // outermost first, as torch has it; rank 1..4, sizes >= 1
  std::span<const std::byte> bytes;  // in the mapped file
};

// A GGUF file (version 2 or 3, little-endian), mapped; validated whole when opened, without
// reading tensor data. Immutable; thread-safe.
class GgufFile {
 public:
  // Throws Error(kBadInput): magic, version, counts, lengths, types, nesting, alignment,
  // duplicate names, offsets, a tensor type that loza does not read.
  explicit GgufFile(const std::filesystem::path& path);

  const std::string& place() const { return place_; }  // begins an error's line
  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // in the file's order

  bool has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }
  // The value of a key that must be there, as the type that it must have. Integers may be
  // stored in any width; strings are UTF-8 and lie in the mapped file. Throws Error(kBadInput)
  // that names the key.
  std::int64_t integer(std::string_view key) const;  // >= 0
  double number(std::string_view key) const;         // finite; a float's shortest decimal
  bool boolean(std::string_view key) const;
  std::string_view string(std::string_view key) const;
  std::vector<std::int64_t> integers(std::string_view key) const;
  std::vector<std::string_view> strings(std::string_view key) const;

 private:
  const GgufValue& value(std::string_view key) const;
  const GgufValue& array(std::string_view key, bool of_strings) const;

  MappedFile file_;
  std::string place_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::vector<GgufTensor> tensors_;
};

}  // namespace loza
