#include "loza/checkpoint/dequantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "loza/base/float16.h"
#include "loza/base/random.h"
#include "tests/checkpoint/files/gguf_bytes.h"

// Bit-equality with the gguf package, on random blocks of every type, is
// tests/oracle/test_gguf.py's; here are blocks that can be read by eye.
namespace loza {
namespace {

using testing::raw;

std::string half(float value) { return raw(Float16(value).bits); }

std::vector<float> values_of(GgmlType type, const std::string& bytes) {
  const GgmlBlock block = ggml_block(type);
  const std::size_t num_blocks = bytes.size() / static_cast<std::size_t>(block.num_bytes);
  std::vector<float> out(num_blocks * static_cast<std::size_t>(block.num_values), std::nanf(""));
  dequantize(type, std::as_bytes(std::span(bytes.data(), bytes.size())), out);
  return out;
}

TEST(Dequantize, Floats) {
  EXPECT_EQ(values_of(GgmlType::kF32, raw(1.5f) + raw(-0.1f)), (std::vector<float>{1.5f, -0.1f}));
  EXPECT_EQ(values_of(GgmlType::kF16, half(1.5f) + half(-0.25f)),
            (std::vector<float>{1.5f, -0.25f}));
  EXPECT_EQ(values_of(GgmlType::kBF16, raw<std::uint16_t>(0x3FC0) + raw<std::uint16_t>(0xC000)),
            (std::vector<float>{1.5f, -2.0f}));
  EXPECT_TRUE(values_of(GgmlType::kF32, "").empty());
}

TEST(Dequantize, Q8_0) {
  std::string block = half(0.5f);
  for (int i = 0; i < 32; ++i) block += raw(static_cast<std::int8_t>(i * 8 - 128));
  const auto values = values_of(GgmlType::kQ8_0, block + block);
  ASSERT_EQ(values.size(), 64u);
  for (std::size_t i = 0; i < 64; ++i) {
    EXPECT_EQ(values[i], 0.5f * (static_cast<float>(i % 32) * 8 - 128));
  }
}

// Bytes 0x10, 0x21, ...: the low halves count 0, 1, ... and the high ones 1, 2, ...
std::string counting_nibbles() {
  std::string bytes;
  for (int i = 0; i < 16; ++i) bytes += static_cast<char>(i | ((i + 1) % 16) << 4);
  return bytes;
}

TEST(Dequantize, Q4) {
  const auto q4_0 = values_of(GgmlType::kQ4_0, half(2) + counting_nibbles());
  const auto q4_1 = values_of(GgmlType::kQ4_1, half(2) + half(-3) + counting_nibbles());
  for (int i = 0; i < 16; ++i) {
    const auto low = static_cast<float>(i), high = static_cast<float>((i + 1) % 16);
    const auto at = static_cast<std::size_t>(i);
    EXPECT_EQ(q4_0[at], 2 * (low - 8));
    EXPECT_EQ(q4_0[at + 16], 2 * (high - 8));
    EXPECT_EQ(q4_1[at], 2 * low - 3);
    EXPECT_EQ(q4_1[at + 16], 2 * high - 3);
  }
}

TEST(Dequantize, Q5) {
  // The fifth bit of value 2 and of value 31.
  const std::string fifth = raw<std::uint32_t>(1u << 2 | 1u << 31);
  const auto q5_0 = values_of(GgmlType::kQ5_0, half(2) + fifth + counting_nibbles());
  const auto q5_1 = values_of(GgmlType::kQ5_1, half(2) + half(-3) + fifth + counting_nibbles());
  for (int i = 0; i < 32; ++i) {
    const int value = (i < 16 ? i : (i - 15) % 16) + (i == 2 || i == 31 ? 16 : 0);
    EXPECT_EQ(q5_0[static_cast<std::size_t>(i)], 2.0f * static_cast<float>(value - 16)) << i;
    EXPECT_EQ(q5_1[static_cast<std::size_t>(i)], 2.0f * static_cast<float>(value) - 3) << i;
  }
}

// Scales 1..8 and minima 33..40 of the 8 groups, in 6 bits each.
std::string k_scales() {
  std::string bytes(12, '\0');
  for (int i = 0; i < 4; ++i) {
    const int scale = i + 1, min = i + 33, later_scale = i + 5, later_min = i + 37;
    bytes[static_cast<std::size_t>(i)] = static_cast<char>(scale | later_scale >> 4 << 6);
    bytes[static_cast<std::size_t>(i) + 4] = static_cast<char>(min | later_min >> 4 << 6);
    bytes[static_cast<std::size_t>(i) + 8] =
        static_cast<char>((later_scale & 15) | (later_min & 15) << 4);
  }
  return bytes;
}

TEST(Dequantize, Q4_KAndQ5_K) {
  std::string nibbles;  // of group 2g the value g, of group 2g + 1 the value 15 - g
  for (int i = 0; i < 128; ++i) nibbles += static_cast<char>(i / 32 | (15 - i / 32) << 4);
  const std::string fifth(32, static_cast<char>(0b10000001));  // groups 0 and 7
  const auto q4 = values_of(GgmlType::kQ4_K, half(0.5f) + half(0.25f) + k_scales() + nibbles);
  const auto q5 =
      values_of(GgmlType::kQ5_K, half(0.5f) + half(0.25f) + k_scales() + fifth + nibbles);
  for (int i = 0; i < 256; ++i) {
    const int group = i / 32, nibble = group % 2 == 0 ? group / 2 : 15 - group / 2;
    const float scale = 0.5f * static_cast<float>(group + 1),
                min = 0.25f * static_cast<float>(group + 33);
    EXPECT_EQ(q4[static_cast<std::size_t>(i)], scale * static_cast<float>(nibble) - min) << i;
    const int value = nibble + (group == 0 || group == 7 ? 16 : 0);
    EXPECT_EQ(q5[static_cast<std::size_t>(i)], scale * static_cast<float>(value) - min) << i;
  }
}

TEST(Dequantize, Q6_K) {
  // Value i is i % 64, scale of group g is g - 8.
  std::string low(128, '\0'), high(64, '\0'), scales;
  for (int i = 0; i < 256; ++i) {
    const int half_idx = i / 128, strip = i / 32 % 4, in_strip = i % 32, value = i % 64;
    char& l = low[static_cast<std::size_t>(half_idx * 64 + strip % 2 * 32 + in_strip)];
    char& h = high[static_cast<std::size_t>(half_idx * 32 + in_strip)];
    l = static_cast<char>(l | (value & 15) << (strip / 2 * 4));
    h = static_cast<char>(h | (value >> 4) << (strip * 2));
  }
  for (int g = 0; g < 16; ++g) scales += raw(static_cast<std::int8_t>(g - 8));
  const auto values = values_of(GgmlType::kQ6_K, low + high + scales + half(0.5f));
  for (int i = 0; i < 256; ++i) {
    EXPECT_EQ(values[static_cast<std::size_t>(i)],
              0.5f * static_cast<float>(i / 16 - 8) * static_cast<float>(i % 64 - 32))
        << i;
  }
}

TEST(Dequantize, NamesAndSizes) {
  EXPECT_EQ(ggml_type_name(GgmlType::kQ4_K), "Q4_K");
  EXPECT_EQ(ggml_type_name(GgmlType(10)), "Q2_K");
  EXPECT_EQ(ggml_type_name(GgmlType(77)), "type 77");
  EXPECT_EQ(ggml_block(GgmlType(10)).num_values, 0);
  EXPECT_EQ(ggml_types_read(), "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K");
  std::vector<float> out(32);
  const std::string block(18, 'x');
  const auto bytes = std::as_bytes(std::span(block.data(), block.size()));
  EXPECT_NO_THROW(dequantize(GgmlType::kQ4_0, bytes, out));
  EXPECT_THROW(dequantize(GgmlType::kQ4_0, bytes.first(17), out), std::logic_error);
  EXPECT_THROW(dequantize(GgmlType::kQ4_0, bytes, std::span(out).first(31)), std::logic_error);
  EXPECT_THROW(dequantize(GgmlType(10), bytes, out), std::logic_error);
}

}  // namespace
}  // namespace loza
