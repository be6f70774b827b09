#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace loza {

// ggml's tensor types that loza reads, numbered as in GGUF files.
enum class GgmlType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

// How a type stores numbers: `num_values` of a row together in `num_bytes`.
struct GgmlBlock {
  std::int64_t num_values = 0;  // 0: a type that loza does not read
  std::int64_t num_bytes = 0;
};

GgmlBlock ggml_block(GgmlType type);

// "Q4_K"; "type 99" for a number that ggml does not have either.
std::string ggml_type_name(GgmlType type);

// "F32, F16, ...": the types that loza reads.
std::string ggml_types_read();

// Numbers of whole blocks, bit-equal with ggml's and the gguf package's dequantisation.
// REQUIRES: out.size() a multiple of num_values; bytes those of as many blocks.
void dequantize(GgmlType type, std::span<const std::byte> bytes, std::span<float> out);

}  // namespace loza
