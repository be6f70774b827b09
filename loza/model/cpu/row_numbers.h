#pragma once

#include <bit>
#include <cstdint>

#include "loza/base/dtype.h"
#include "loza/model/cpu/product_out.h"

// Numbers of fp32 and bf16 rows. Each instruction set's file compiles its own copy: everything
// here is local to it.
namespace loza::model_cpu {
namespace {

// Numbers of a row, widened to fp32 and rounded back.
inline float widen(float value) { return value; }
inline float widen(std::uint16_t bf16) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bf16) << 16);
}
template <typename T>
T narrow(float value);
template <>
inline float narrow<float>(float value) {
  return value;
}
template <>
inline std::uint16_t narrow<std::uint16_t>(float value) {
  const auto word = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (word + 0x7FFFu + ((word >> 16) & 1u)) >> 16;
  const std::uint32_t quiet_nan = (word >> 16) | 0x40u;
  return static_cast<std::uint16_t>(value == value ? rounded : quiet_nan);
}

// Calls body with a null pointer of the row's element type.
template <typename Body>
void with_type(DType dtype, const Body& body) {
  if (dtype == DType::kBF16) {
    body(static_cast<std::uint16_t*>(nullptr));
  } else {
    body(static_cast<float*>(nullptr));
  }
}

template <typename T>
inline void finish_numbers(float* products, const float* bias, const T* residual, std::int64_t size,
                           T* out) {
  if (bias != nullptr) {
    for (std::int64_t n = 0; n < size; ++n) products[n] += bias[n];
  }
  if (residual != nullptr) {
    for (std::int64_t n = 0; n < size; ++n) products[n] += widen(residual[n]);
  }
  for (std::int64_t n = 0; n < size; ++n) out[n] = narrow<T>(products[n]);
}

// The products of row m with outputs [begin, end), kOutputs but for the last ones, to their place.
template <typename T, std::int64_t kOutputs>
inline void finish_row(float* products, std::int64_t m, std::int64_t begin, std::int64_t end,
                       const ProductOut& out) {
  const T* residual = out.residual == nullptr
                          ? nullptr
                          : static_cast<const T*>(out.residual) + m * out.residual_stride + begin;
  const float* bias = out.bias == nullptr ? nullptr : out.bias + begin;
  T* to = static_cast<T*>(out.data) + m * out.stride + begin;
  // A size that the compiler knows makes whole vectors of the loops.
  if (end - begin == kOutputs) {
    finish_numbers(products, bias, residual, kOutputs, to);
  } else {
    finish_numbers(products, bias, residual, end - begin, to);
  }
}

}  // namespace
}  // namespace loza::model_cpu
