#include "loza/checkpoint/dequantize.h"

#include <fmt/format.h>

#include <cstring>

#include "loza/base/check.h"
#include "loza/base/dtype.h"
#include "loza/base/float16.h"

// Layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h. Each product and
// sum is rounded by itself, as ggml and the gguf package do: this file is compiled without
// fused multiply-add.
namespace loza {
namespace {

using Byte = std::uint8_t;

float half_at(const Byte* bytes) {
  Float16 half;
  std::memcpy(&half.bits, bytes, sizeof half.bits);
  return static_cast<float>(half);
}

// One block of each type, from its bytes to its values.

void f32_block(const Byte* in, float* out) { std::memcpy(out, in, sizeof *out); }

void f16_block(const Byte* in, float* out) { *out = half_at(in); }

void bf16_block(const Byte* in, float* out) {
  BFloat16 value;
  std::memcpy(&value.bits, in, sizeof value.bits);
  *out = static_cast<float>(value);
}

// d fp16; q int8 [32].
void q8_0_block(const Byte* in, float* out) {
  const float d = half_at(in);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<std::int8_t>(in[2 + i]));
}

// d fp16; q 4 bits [32]: values 0..15 in the low halves of 16 bytes, 16..31 in the high ones.
void q4_0_block(const Byte* in, float* out) {
  const float d = half_at(in);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((in[2 + i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((in[2 + i] >> 4) - 8);
  }
}

// d, m fp16; q as Q4_0's.
void q4_1_block(const Byte* in, float* out) {
  const float d = half_at(in), m = half_at(in + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(in[4 + i] & 15) + m;
    out[i + 16] = d * static_cast<float>(in[4 + i] >> 4) + m;
  }
}

std::uint32_t word_at(const Byte* bytes) {
  std::uint32_t word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

// d fp16; the fifth bits, one word; q as Q4_0's.
void q5_0_block(const Byte* in, float* out) {
  const float d = half_at(in);
  const std::uint32_t fifth = word_at(in + 2);
  for (int i = 0; i < 16; ++i) {
    const int low = (in[6 + i] & 15) | static_cast<int>((fifth >> i & 1u) << 4);
    const int high = (in[6 + i] >> 4) | static_cast<int>((fifth >> (i + 16) & 1u) << 4);
    out[i] = d * static_cast<float>(low - 16);
    out[i + 16] = d * static_cast<float>(high - 16);
  }
}

// d, m fp16; the fifth bits, one word; q as Q4_0's.
void q5_1_block(const Byte* in, float* out) {
  const float d = half_at(in), m = half_at(in + 2);
  const std::uint32_t fifth = word_at(in + 4);
  for (int i = 0; i < 16; ++i) {
    const int low = (in[8 + i] & 15) | static_cast<int>((fifth >> i & 1u) << 4);
    const int high = (in[8 + i] >> 4) | static_cast<int>((fifth >> (i + 16) & 1u) << 4);
    out[i] = d * static_cast<float>(low) + m;
    out[i + 16] = d * static_cast<float>(high) + m;
  }
}

struct ScaleAndMin {
  float scale, min;
};

// Scale and minimum, 6 bits each, of the i-th of a super-block's 8 groups, packed in 12 bytes:
// those of the first four groups lie in the low 6 bits of bytes i and i + 4; those of the
// last four have 4 bits in byte i + 4 and 2 in the high bits of bytes i - 4 and i.
ScaleAndMin scale_and_min(const Byte* packed, int i) {
  if (i < 4) return {static_cast<float>(packed[i] & 63), static_cast<float>(packed[i + 4] & 63)};
  return {static_cast<float>((packed[i + 4] & 15) | (packed[i - 4] >> 6 << 4)),
          static_cast<float>((packed[i + 4] >> 4) | (packed[i] >> 6 << 4))};
}

// d, dmin fp16; scales [12]; q 4 bits [256]: 32 bytes hold a group in their low halves and
// the next one in their high halves.
void q4_k_block(const Byte* in, float* out) {
  const float d = half_at(in), dmin = half_at(in + 2);
  for (int group = 0; group < 8; ++group) {
    const ScaleAndMin s = scale_and_min(in + 4, group);
    const float scale = d * s.scale, min = dmin * s.min;
    const Byte* q = in + 16 + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      out[group * 32 + i] = scale * static_cast<float>(q[i] >> shift & 15) - min;
    }
  }
}

// As Q4_K, with the fifth bits of the g-th group in the g-th bits of 32 bytes before q.
void q5_k_block(const Byte* in, float* out) {
  const float d = half_at(in), dmin = half_at(in + 2);
  const Byte* fifth = in + 16;
  for (int group = 0; group < 8; ++group) {
    const ScaleAndMin s = scale_and_min(in + 4, group);
    const float scale = d * s.scale, min = dmin * s.min;
    const Byte* q = in + 48 + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int value = (q[i] >> shift & 15) | (fifth[i] >> group & 1) << 4;
      out[group * 32 + i] = scale * static_cast<float>(value) - min;
    }
  }
}

// The low 4 bits [128 bytes]; the high 2 bits [64 bytes]; scales int8 [16]; d fp16. Values go
// by halves of 128, each in four strips of 32: strips 0 and 1 in the low halves of the half's
// 64 bytes, 2 and 3 in the high ones; the strip's number gives the high bits' place.
void q6_k_block(const Byte* in, float* out) {
  const float d = half_at(in + 208);
  for (int strip = 0; strip < 8; ++strip) {
    const int half = strip / 4, part = strip % 4;
    const Byte* low = in + half * 64 + part % 2 * 32;
    const Byte* high = in + 128 + half * 32;
    for (int i = 0; i < 32; ++i) {
      const auto scale = static_cast<std::int8_t>(in[192 + strip * 2 + i / 16]);
      const int value = (low[i] >> (part / 2 * 4) & 15) | (high[i] >> (part * 2) & 3) << 4;
      out[strip * 32 + i] = d * static_cast<float>(scale) * static_cast<float>(value - 32);
    }
  }
}

template <auto read_block, int num_values, int num_bytes>
void read_blocks(const Byte* in, std::size_t num_blocks, float* out) {
  for (std::size_t b = 0; b < num_blocks; ++b) {
    read_block(in + b * num_bytes, out + b * num_values);
  }
}

struct TypeRow {
  GgmlType type;
  const char* name;
  GgmlBlock block;
  void (*read)(const Byte* in, std::size_t num_blocks, float* out);
};

template <auto read_block, int num_values, int num_bytes>
constexpr TypeRow row(GgmlType type, const char* name) {
  return {type, name, {num_values, num_bytes}, read_blocks<read_block, num_values, num_bytes>};
}

constexpr TypeRow kTypes[] = {
    row<f32_block, 1, 4>(GgmlType::kF32, "F32"),
    row<f16_block, 1, 2>(GgmlType::kF16, "F16"),
    row<bf16_block, 1, 2>(GgmlType::kBF16, "BF16"),
    row<q8_0_block, 32, 34>(GgmlType::kQ8_0, "Q8_0"),
    row<q4_0_block, 32, 18>(GgmlType::kQ4_0, "Q4_0"),
    row<q4_1_block, 32, 20>(GgmlType::kQ4_1, "Q4_1"),
    row<q5_0_block, 32, 22>(GgmlType::kQ5_0, "Q5_0"),
    row<q5_1_block, 32, 24>(GgmlType::kQ5_1, "Q5_1"),
    row<q4_k_block, 256, 144>(GgmlType::kQ4_K, "Q4_K"),
    row<q5_k_block, 256, 176>(GgmlType::kQ5_K, "Q5_K"),
    row<q6_k_block, 256, 210>(GgmlType::kQ6_K, "Q6_K"),
};

// Names of the other numbers, for the error that refuses them.
constexpr struct {
  std::uint32_t type;
  const char* name;
} kOtherTypes[] = {
    {9, "Q8_1"},     {10, "Q2_K"},  {11, "Q3_K"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"},
    {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},   {23, "IQ4_XS"},
    {24, "I8"},      {25, "I16"},   {26, "I32"},    {27, "I64"},   {28, "F64"},     {29, "IQ1_M"},
    {34, "TQ1_0"},   {35, "TQ2_0"}, {39, "MXFP4"},  {40, "NVFP4"},
};

const TypeRow* find_type(GgmlType type) {
  for (const TypeRow& row : kTypes) {
    if (row.type == type) return &row;
  }
  return nullptr;
}

}  // namespace

GgmlBlock ggml_block(GgmlType type) {
  const TypeRow* row = find_type(type);
  return row == nullptr ? GgmlBlock{} : row->block;
}

std::string ggml_type_name(GgmlType type) {
  if (const TypeRow* row = find_type(type)) return row->name;
  for (const auto& other : kOtherTypes) {
    if (other.type == static_cast<std::uint32_t>(type)) return other.name;
  }
  return fmt::format("type {}", static_cast<std::uint32_t>(type));
}

std::string ggml_types_read() {
  std::string names;
  for (const TypeRow& row : kTypes)
    names += names.empty() ? row.name : fmt::format(", {}", row.name);
  return names;
}

void dequantize(GgmlType type, std::span<const std::byte> bytes, std::span<float> out) {
  const TypeRow* row = find_type(type);
  LOZA_CHECK(row != nullptr, ggml_type_name(type));
  const auto num_values = static_cast<std::size_t>(row->block.num_values);
  const auto num_bytes = static_cast<std::size_t>(row->block.num_bytes);
  const std::size_t num_blocks = out.size() / num_values;
  LOZA_CHECK(num_blocks * num_values == out.size() && num_blocks * num_bytes == bytes.size(),
             row->name, bytes.size(), out.size());
  row->read(reinterpret_cast<const Byte*>(bytes.data()), num_blocks, out.data());
}

}  // namespace loza
