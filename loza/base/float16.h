#pragma once

#include <bit>
#include <cstdint>

namespace loza {

// IEEE 754 binary16, the "fp16" of model files, as its bits.
struct Float16 {
  std::uint16_t bits = 0;

  Float16() = default;
  // Rounds to nearest even; what is too large becomes infinite; NaN stays NaN.
  explicit Float16(float value) {
    const std::uint32_t word = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = (word >> 16) & 0x8000u;
    const std::uint32_t magnitude = word & 0x7FFFFFFFu;
    std::uint32_t half;
    if (magnitude > 0x7F800000u) {
      half = 0x7E00u | ((magnitude >> 13) & 0x3FFu);
    } else if (magnitude >= 0x477FF000u) {  // 65,520: rounds to infinity
      half = 0x7C00u;
    } else if (magnitude < 0x38800000u) {  // 2^-14: subnormal; the adder's rounding serves
      const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
      half = std::bit_cast<std::uint32_t>(shifted) - 0x3F000000u;
    } else {
      half = (magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
    }
    bits = static_cast<std::uint16_t>(sign | half);
  }
  explicit operator float() const {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    const std::uint32_t magnitude = bits & 0x7FFFu;
    std::uint32_t word;
    if (magnitude >= 0x7C00u) {
      word = (magnitude << 13) | 0x7F800000u;
    } else if (magnitude >= 0x400u) {
      word = (magnitude << 13) + 0x38000000u;
    } else {  // subnormal: a multiple of 2^-24
      word = std::bit_cast<std::uint32_t>(static_cast<float>(magnitude) * 0x1.0p-24f);
    }
    return std::bit_cast<float>(sign | word);
  }
};

}  // namespace loza
