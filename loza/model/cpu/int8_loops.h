#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "loza/model/cpu/int8_kernels.h"
#include "loza/model/cpu/row_numbers.h"

// The loops behind Int8Kernels. Each instruction set's file defines Ints and Floats, 16 lanes of
// int32 and fp32, and six operations on them, then includes this and compiles its own copy:
//   Ints broadcast(std::int32_t)
//   Ints dot4(Ints sum, const std::uint8_t* w, std::int32_t x4)   lane n: sum + (the four numbers
//        w[4 n ...], less what they are shifted by) . (the four int8 in x4)
//   Floats zeros()
//   Floats widen_scales(const std::uint16_t* bf16)
//   Floats add_scaled(Floats sum, Ints product, Floats w_scale, float x_scale)
//   void store(float* out, Floats)
// and kShifted: whether dot4 leaves the 128 in the weight's numbers.
namespace loza::model_cpu {
namespace {

// Bytes of a panel that are asked for before they are needed, where reading it is all that counts.
constexpr std::int64_t kAhead = 4096;

template <int kRows>
void multiply_tile(const Int8Rows& rows, std::int64_t first, const std::uint8_t* panel,
                   float* out) {
  const std::int64_t stride = rows.num_groups * kGroup;
  Floats sums[kRows][2];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) sums[m][0] = sums[m][1] = zeros();
  for (std::int64_t term = 0; term < rows.num_terms; ++term) {
    const std::int64_t row = term * rows.num_rows + first;
    const std::int8_t* x = rows.integers + row * stride;
    const float* x_scales = rows.scales + row * rows.num_groups;
    const std::int32_t* offsets = rows.offsets + row * rows.num_groups;
    const std::uint8_t* group = panel;
    for (std::int64_t g = 0; g < rows.num_groups; ++g, group += kGroupBytes, x += kGroup) {
      const auto* scales = reinterpret_cast<const std::uint16_t*>(group);
      const std::uint8_t* w = group + 2 * kPanelOutputs;
      Ints products[kRows][2];
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        products[m][0] = products[m][1] =
            broadcast(kShifted ? offsets[m * rows.num_groups + g] : 0);
      }
#pragma GCC unroll 8
      for (int step = 0; step < kGroup / 4; ++step) {
        if constexpr (kRows == 1) {
          __builtin_prefetch(w + kAhead + step * 128);
          __builtin_prefetch(w + kAhead + step * 128 + 64);
        }
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m) {
          std::int32_t x4;
          __builtin_memcpy(&x4, x + m * stride + 4 * step, sizeof(x4));
          products[m][0] = dot4(products[m][0], w + step * 128, x4);
          products[m][1] = dot4(products[m][1], w + step * 128 + 64, x4);
        }
      }
      const Floats w_scales[2] = {widen_scales(scales), widen_scales(scales + 16)};
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        const float x_scale = x_scales[m * rows.num_groups + g];
        sums[m][0] = add_scaled(sums[m][0], products[m][0], w_scales[0], x_scale);
        sums[m][1] = add_scaled(sums[m][1], products[m][1], w_scales[1], x_scale);
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
    store(out + m * kPanelOutputs, sums[m][0]);
    store(out + m * kPanelOutputs + 16, sums[m][1]);
  }
}

void multiply_rows(const Int8Rows& rows, std::int64_t first, std::int64_t count,
                   const std::uint8_t* panel, float* products) {
  static_assert(kInt8TileRows == 6);
  switch (count) {
    case 1:
      return multiply_tile<1>(rows, first, panel, products);
    case 2:
      return multiply_tile<2>(rows, first, panel, products);
    case 3:
      return multiply_tile<3>(rows, first, panel, products);
    case 4:
      return multiply_tile<4>(rows, first, panel, products);
    case 5:
      return multiply_tile<5>(rows, first, panel, products);
    default:
      return multiply_tile<6>(rows, first, panel, products);
  }
}

void multiply_panel(const Int8Rows& rows, std::int64_t first, std::int64_t count,
                    const std::uint8_t* panel, std::int64_t begin, std::int64_t end,
                    const ProductOut& out) {
  float products[kInt8TileRows * kPanelOutputs];
  multiply_rows(rows, first, count, panel, products);
  with_type(out.dtype, [&]<typename T>(T*) {
    for (std::int64_t m = 0; m < count; ++m) {
      finish_row<T, kPanelOutputs>(products + m * kPanelOutputs, first + m, begin, end, out);
    }
  });
}

// The group x [32] to integers; returns its scale.
inline float quantize_group(const float* x, std::int8_t* integers, std::int32_t* sum) {
  // Magnitudes compare as integers, and NaN is the largest of them.
  std::uint32_t magnitude = 0;
  for (std::int64_t i = 0; i < kGroup; ++i) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x[i]) & 0x7FFFFFFFu;
    magnitude = bits > magnitude ? bits : magnitude;
  }
  const float largest = std::bit_cast<float>(magnitude);
  constexpr float kSmallest = 1e-34f;  // below it 127 / largest is no fp32 number
  const bool is_finite = magnitude < 0x7F800000u;
  const float inverse = is_finite && largest > kSmallest ? 127.0f / largest : 0.0f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: the sum has x's nearest integer below
  std::int32_t total = 0;
  for (std::int64_t i = 0; i < kGroup; ++i) {
    const std::int32_t integer =
        std::bit_cast<std::int32_t>(x[i] * inverse + kRound) - std::bit_cast<std::int32_t>(kRound);
    integers[i] = static_cast<std::int8_t>(integer);
    total += static_cast<std::int8_t>(integer);
  }
  *sum = total;
  if (!is_finite) return std::numeric_limits<float>::quiet_NaN();
  return largest > kSmallest ? largest / 127.0f : 0.0f;
}

template <typename T>
void quantize_row_of(const T* x, std::int64_t size, std::int64_t m, const Int8Rows& rows) {
  for (std::int64_t g = 0; g < rows.num_groups; ++g) {
    float group[kGroup];
    const std::int64_t begin = g * kGroup;
    if (size - begin >= kGroup) {
      for (std::int64_t i = 0; i < kGroup; ++i) group[i] = widen(x[begin + i]);
    } else {
      for (std::int64_t i = 0; i < kGroup; ++i) {
        group[i] = begin + i < size ? widen(x[begin + i]) : 0.0f;
      }
    }
    for (std::int64_t term = 0; term < rows.num_terms; ++term) {
      const std::int64_t at = (term * rows.num_rows + m) * rows.num_groups + g;
      std::int32_t sum;
      const float scale = quantize_group(group, rows.integers + at * kGroup, &sum);
      rows.scales[at] = scale;
      rows.offsets[at] = -128 * sum;
      if (term + 1 == rows.num_terms) break;
      for (std::int64_t i = 0; i < kGroup; ++i) {
        group[i] -= scale * static_cast<float>(rows.integers[at * kGroup + i]);
      }
    }
  }
}

void quantize_row(const void* x, DType dtype, std::int64_t size, std::int64_t m,
                  const Int8Rows& rows) {
  with_type(dtype,
            [&]<typename T>(T*) { quantize_row_of(static_cast<const T*>(x), size, m, rows); });
}

constexpr Int8Kernels kInt8Kernels{.quantize_row = quantize_row, .multiply_panel = multiply_panel};

}  // namespace
}  // namespace loza::model_cpu
