#pragma once

#include <immintrin.h>

#include <cstdint>

#include "loza/attention/cpu/tile.h"
#include "loza/attention/cpu/tile/exp2.h"

// Floats: 16 fp32 numbers, in AVX-512. floats_avx2.h and floats_portable.h offer the same.
// Everything is file-local: code of one instruction set must not be linked into another's.
namespace loza::cpu {
namespace {

struct Floats {
  __m512 v;
};

// Shape of the tile of C that matrix products keep in registers: rows, vectors of 16.
constexpr int kRegisterRows = 6, kRegisterVectors = 4;

// Of decode_step.h: queries and sums of dot products, rows and vectors of weighted values.
constexpr int kDotRows = 8, kDotSums = 16, kValueRows = 8, kValueVectors = 2;

inline Floats zeros() { return {_mm512_setzero_ps()}; }
inline Floats broadcast(float x) { return {_mm512_set1_ps(x)}; }
inline Floats load(const float* from) { return {_mm512_loadu_ps(from)}; }
// The same number, in a register from here on: for one that several products read, which gcc would
// rather load again for each.
inline Floats in_register(Floats x) {
  asm("" : "+v"(x.v));
  return x;
}
inline void store(Floats x, float* to) { _mm512_storeu_ps(to, x.v); }

inline Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
// a * b + c, a * b - c
inline Floats multiply_add(Floats a, Floats b, Floats c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
inline Floats multiply_subtract(Floats a, Floats b, Floats c) {
  return {_mm512_fmsub_ps(a.v, b.v, c.v)};
}
inline Floats max(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }

// Lanes [begin, end) of x, `otherwise` in the others.
inline Floats keep_lanes(Floats x, std::int64_t begin, std::int64_t end, Floats otherwise) {
  const auto below = [](std::int64_t n) {
    return n <= 0 ? 0u : n >= kLanes ? 0xFFFFu : (1u << n) - 1u;
  };
  const auto mask = static_cast<__mmask16>(below(end) & ~below(begin));
  return {_mm512_mask_blend_ps(mask, otherwise.v, x.v)};
}

inline float max_of_lanes(Floats x) { return _mm512_reduce_max_ps(x.v); }
inline float sum_of_lanes(Floats x) { return _mm512_reduce_add_ps(x.v); }

// to[i] = the sum of the lanes of x[i], added in the same order for each.
template <int count>
[[gnu::always_inline]] inline void sums_of_lanes(const Floats (&x)[count], float* to) {
  static_assert(count <= 16);
  const auto at = [&](int i) { return i < count ? x[i].v : _mm512_setzero_ps(); };
  __m512 halves[8], quarters[4], eighths[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m512 a = at(2 * i), b = at(2 * i + 1);
    halves[i] = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(halves[2 * i]), b = _mm512_castps_pd(halves[2 * i + 1]);
    quarters[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                                _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m512 a = quarters[2 * i], b = quarters[2 * i + 1];
    eighths[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
  }
  const __m512 all = _mm512_add_ps(_mm512_shuffle_f32x4(eighths[0], eighths[1], 0x88),
                                   _mm512_shuffle_f32x4(eighths[0], eighths[1], 0xDD));
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1u), all);
}

// 2^x; 0 for -inf.
inline Floats exp2(Floats x) {
  // f = x - floor(x), which is 0 for an infinite x; scalef multiplies by 2^floor(x).
  const __m512 f = _mm512_reduce_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 p = _mm512_set1_ps(kExp2Coefficients[5]);
  for (int i = 4; i >= 0; --i) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2Coefficients[i]));
  return {_mm512_scalef_ps(p, x.v)};
}

// 16 bf16 numbers.
inline Floats load_bf16(const std::uint16_t* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}

// Rounds to nearest even; NaN stays NaN.
inline void store_bf16(Floats x, std::uint16_t* to) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  const __m512i chosen = _mm512_mask_blend_epi32(is_nan, rounded, quiet);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16)));
}

// Lane j of row i becomes lane i of row j.
inline void transpose(Floats (&rows)[kLanes]) {
  __m512 t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
    t[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  __m512 u[16];
  for (int i = 0; i < 16; i += 4) {
    const auto pd = [&](int j) { return _mm512_castps_pd(t[i + j]); };
    u[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(0), pd(2)));
    u[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(0), pd(2)));
    u[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(1), pd(3)));
    u[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(1), pd(3)));
  }
  for (int i = 0; i < 4; ++i) {
    const __m512 a = _mm512_shuffle_f32x4(u[i], u[i + 4], 0x88);
    const __m512 b = _mm512_shuffle_f32x4(u[i], u[i + 4], 0xDD);
    const __m512 c = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0x88);
    const __m512 d = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0xDD);
    rows[i].v = _mm512_shuffle_f32x4(a, c, 0x88);
    rows[i + 4].v = _mm512_shuffle_f32x4(b, d, 0x88);
    rows[i + 8].v = _mm512_shuffle_f32x4(a, c, 0xDD);
    rows[i + 12].v = _mm512_shuffle_f32x4(b, d, 0xDD);
  }
}

}  // namespace
}  // namespace loza::cpu
