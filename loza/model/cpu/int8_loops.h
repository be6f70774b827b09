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

// Terms [first_term, first_term + kTerms) of kRows rows meet a panel side by side. The terms' sums
// are added in their order; `kAdds` adds them to what `out` holds.
template <int kRows, int kTerms, bool kAdds>
void multiply_tile(const Int8Rows& rows, std::int64_t first, std::int64_t first_term,
                   const std::uint8_t* panel, float* out) {
  constexpr int kAll = kRows * kTerms;
  constexpr bool kReads = kAll <= 2;  // memory is what takes the time
  const std::int64_t stride = rows.num_groups * kGroup;
  const std::int8_t* x[kAll];
  const float* x_scales[kAll];
  const std::int32_t* offsets[kAll];
  for (int i = 0; i < kAll; ++i) {
    const std::int64_t row = (first_term + i / kRows) * rows.num_rows + first + i % kRows;
    x[i] = rows.integers + row * stride;
    x_scales[i] = rows.scales + row * rows.num_groups;
    offsets[i] = rows.offsets + row * rows.num_groups;
  }
  Floats sums[kAll][2];
#pragma GCC unroll 8
  for (int i = 0; i < kAll; ++i) sums[i][0] = sums[i][1] = zeros();
  const std::uint8_t* group = panel;
  for (std::int64_t g = 0; g < rows.num_groups; ++g, group += kGroupBytes) {
    const auto* scales = reinterpret_cast<const std::uint16_t*>(group);
    const std::uint8_t* w = group + 2 * kPanelOutputs;
    Ints products[kAll][2];
#pragma GCC unroll 8
    for (int i = 0; i < kAll; ++i) {
      products[i][0] = products[i][1] = broadcast(kShifted ? offsets[i][g] : 0);
    }
#pragma GCC unroll 8
    for (int step = 0; step < kGroup / 4; ++step) {
      if constexpr (kReads) {
        __builtin_prefetch(w + kAhead + step * 128);
        __builtin_prefetch(w + kAhead + step * 128 + 64);
      }
#pragma GCC unroll 8
      for (int i = 0; i < kAll; ++i) {
        std::int32_t x4;
        __builtin_memcpy(&x4, x[i] + g * kGroup + 4 * step, sizeof(x4));
        products[i][0] = dot4(products[i][0], w + step * 128, x4);
        products[i][1] = dot4(products[i][1], w + step * 128 + 64, x4);
      }
    }
    const Floats w_scales[2] = {widen_scales(scales), widen_scales(scales + 16)};
#pragma GCC unroll 8
    for (int i = 0; i < kAll; ++i) {
      sums[i][0] = add_scaled(sums[i][0], products[i][0], w_scales[0], x_scales[i][g]);
      sums[i][1] = add_scaled(sums[i][1], products[i][1], w_scales[1], x_scales[i][g]);
    }
  }
  for (int i = 0; i < kAll; ++i) {
    float of_term[kPanelOutputs];
    store(of_term, sums[i][0]);
    store(of_term + 16, sums[i][1]);
    float* of_row = out + i % kRows * kPanelOutputs;
    const bool adds = kAdds || i >= kRows;
    for (std::int64_t n = 0; n < kPanelOutputs; ++n) {
      of_row[n] = adds ? of_row[n] + of_term[n] : of_term[n];
    }
  }
}

// All terms of kRows rows: two of few rows in one pass, so that a panel is read once; else one by
// one.
template <int kRows>
void multiply_terms(const Int8Rows& rows, std::int64_t first, const std::uint8_t* panel,
                    float* out) {
  std::int64_t term = 0;
  if constexpr (2 * kRows <= kInt8TileRows) {
    if (rows.num_terms >= 2) {
      multiply_tile<kRows, 2, false>(rows, first, 0, panel, out);
      term = 2;
    }
  }
  if (term == 0) {
    multiply_tile<kRows, 1, false>(rows, first, 0, panel, out);
    term = 1;
  }
  for (; term < rows.num_terms; ++term) {
    multiply_tile<kRows, 1, true>(rows, first, term, panel, out);
  }
}

void multiply_rows(const Int8Rows& rows, std::int64_t first, std::int64_t count,
                   const std::uint8_t* panel, float* products) {
  static_assert(kInt8TileRows == 6);
  switch (count) {
    case 1:
      return multiply_terms<1>(rows, first, panel, products);
    case 2:
      return multiply_terms<2>(rows, first, panel, products);
    case 3:
      return multiply_terms<3>(rows, first, panel, products);
    case 4:
      return multiply_terms<4>(rows, first, panel, products);
    case 5:
      return multiply_terms<5>(rows, first, panel, products);
    default:
      return multiply_terms<6>(rows, first, panel, products);
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
