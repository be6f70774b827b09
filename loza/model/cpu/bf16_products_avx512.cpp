#ifdef __x86_64__

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "loza/model/cpu/bf16_products.h"
#include "loza/model/cpu/row_numbers.h"
#include "loza/model/cpu/some_rows.h"

namespace loza::model_cpu {
namespace {

constexpr int kTileRows = 6;     // with kTileOutputs they fill the registers
constexpr int kTileOutputs = 4;  // whose rows stay in the first cache
constexpr std::int64_t kPairs = 32;

// The sums of four vectors' lanes.
inline __m128 sums_of_lanes(const __m512* v) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
  const __m512 abcd =
      _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
  const __m256 halves =
      _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
  return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

inline __m512bh load(const std::uint16_t* from) {
  return reinterpret_cast<__m512bh>(_mm512_loadu_si512(from));
}
inline __m512bh load(const std::uint16_t* from, __mmask32 mask) {
  return reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, from));
}

// Rows x[m] and w[n] of `size` numbers: products[m * kBf16Outputs + n] = x[m] . w[n].
template <int kRows>
void multiply_tile(const std::uint16_t* const* x, const std::uint16_t* const* w, std::int64_t size,
                   std::int64_t ahead, float* products) {
  __m512 sums[kRows][kTileOutputs];
  for (auto& of_row : sums) {
    for (__m512& sum : of_row) sum = _mm512_setzero_ps();
  }
  const auto meet = [&](const auto& load_from) {
    __m512bh of_w[kTileOutputs];
#pragma GCC unroll 4
    for (int n = 0; n < kTileOutputs; ++n) of_w[n] = load_from(w[n]);
#pragma GCC unroll 6
    for (int m = 0; m < kRows; ++m) {
      const __m512bh of_x = load_from(x[m]);
#pragma GCC unroll 4
      for (int n = 0; n < kTileOutputs; ++n) {
        sums[m][n] = _mm512_dpbf16_ps(sums[m][n], of_x, of_w[n]);
      }
    }
  };
  std::int64_t k = 0;
  for (; k + kPairs <= size; k += kPairs) {
    // Into the second cache: the first one has these rows and x.
#pragma GCC unroll 4
    for (int n = 0; n < kTileOutputs; ++n) {
      _mm_prefetch(reinterpret_cast<const char*>(w[n] + k + ahead), _MM_HINT_T1);
    }
    meet([&](const std::uint16_t* row) { return load(row + k); });
  }
  if (k < size) {
    const auto mask = static_cast<__mmask32>((std::uint64_t{1} << (size - k)) - 1);
    meet([&](const std::uint16_t* row) { return load(row + k, mask); });
  }
  for (int m = 0; m < kRows; ++m) {
    _mm_storeu_ps(products + m * kBf16Outputs, sums_of_lanes(sums[m]));
  }
}

using MultiplyTile = void (*)(const std::uint16_t* const* x, const std::uint16_t* const* w,
                              std::int64_t size, std::int64_t ahead, float* products);
constexpr MultiplyTile kMultiplyTile[kTileRows] = {multiply_tile<1>, multiply_tile<2>,
                                                   multiply_tile<3>, multiply_tile<4>,
                                                   multiply_tile<5>, multiply_tile<6>};

}  // namespace

void multiply_bf16_block(const RowsView& x, const RowsView& weight, std::int64_t begin,
                         std::int64_t end, const ProductOut& out) {
  float products[kSomeRows * kBf16Outputs];
  const std::uint16_t* rows[kSomeRows];
  for (std::int64_t m = 0; m < x.count; ++m) {
    rows[m] = static_cast<const std::uint16_t*>(x.row(m));
  }
  for (std::int64_t first = begin; first < end; first += kTileOutputs) {
    const std::uint16_t* w[kTileOutputs];
    for (int n = 0; n < kTileOutputs; ++n) {  // past the end the last row again
      w[n] = static_cast<const std::uint16_t*>(weight.row(std::min(first + n, end - 1)));
    }
    for (std::int64_t m = 0; m < x.count; m += kTileRows) {
      const std::int64_t count = std::min<std::int64_t>(kTileRows, x.count - m);
      kMultiplyTile[count - 1](rows + m, w, x.size, kTileOutputs * weight.stride,
                               products + m * kBf16Outputs + (first - begin));
    }
  }
  with_type(out.dtype, [&]<typename T>(T*) {
    for (std::int64_t m = 0; m < x.count; ++m) {
      finish_row<T, kBf16Outputs>(products + m * kBf16Outputs, m, begin, end, out);
    }
  });
}

}  // namespace loza::model_cpu

#endif  // __x86_64__
