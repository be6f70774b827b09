#pragma once

#include <immintrin.h>

#include <cstdint>

#include "loza/attention/cpu/tile.h"
#include "loza/attention/cpu/tile/exp2.h"

// Floats (see floats_avx512.h) as two AVX2 registers.
namespace loza::cpu {
namespace {

struct Floats {
  __m256 lo, hi;
};

constexpr int kRegisterRows = 6, kRegisterVectors = 1;

constexpr int kDotRows = 2, kDotSums = 4, kValueRows = 4, kValueVectors = 1;

inline Floats zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Floats broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Floats load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline Floats in_register(Floats x) {
  asm("" : "+x"(x.lo), "+x"(x.hi));
  return x;
}
inline void store(Floats x, float* to) {
  _mm256_storeu_ps(to, x.lo);
  _mm256_storeu_ps(to + 8, x.hi);
}

inline Floats operator+(Floats a, Floats b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
inline Floats operator-(Floats a, Floats b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
inline Floats operator*(Floats a, Floats b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
inline Floats multiply_add(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline Floats multiply_subtract(Floats a, Floats b, Floats c) {
  return {_mm256_fmsub_ps(a.lo, b.lo, c.lo), _mm256_fmsub_ps(a.hi, b.hi, c.hi)};
}
inline Floats max(Floats a, Floats b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}

inline Floats keep_lanes(Floats x, std::int64_t begin, std::int64_t end, Floats otherwise) {
  const auto half = [&](__m256 x_half, __m256 other_half, int first) {
    const __m256i lane =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
    const __m256i inside =
        _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(begin)), lane),
                            _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(end)), lane));
    return _mm256_blendv_ps(other_half, x_half, _mm256_castsi256_ps(inside));
  };
  return {half(x.lo, otherwise.lo, 0), half(x.hi, otherwise.hi, 8)};
}

inline float max_of_lanes(Floats x) {
  const __m256 eight = _mm256_max_ps(x.lo, x.hi);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
inline float sum_of_lanes(Floats x) {
  const __m256 eight = _mm256_add_ps(x.lo, x.hi);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
template <int count>
[[gnu::always_inline]] inline void sums_of_lanes(const Floats (&x)[count], float* to) {
  for (int i = 0; i < count; ++i) to[i] = sum_of_lanes(x[i]);
}

inline __m256 exp2_of_half(__m256 x) {
  // Below 2^-126 the result is 0. max() hands a NaN on when it stands second.
  const __m256 smallest = _mm256_set1_ps(-126.0f);
  const __m256 vanishes = _mm256_cmp_ps(x, smallest, _CMP_LT_OQ);
  const __m256 bounded = _mm256_max_ps(smallest, x);
  const __m256 floor = _mm256_floor_ps(bounded);
  const __m256 f = _mm256_sub_ps(bounded, floor);
  __m256 p = _mm256_set1_ps(kExp2Coefficients[5]);
  for (int i = 4; i >= 0; --i) p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2Coefficients[i]));
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(floor), _mm256_set1_epi32(127));
  const __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
  return _mm256_andnot_ps(vanishes, _mm256_mul_ps(p, power));
}
inline Floats exp2(Floats x) { return {exp2_of_half(x.lo), exp2_of_half(x.hi)}; }

inline __m256 load_bf16_half(const std::uint16_t* from) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Floats load_bf16(const std::uint16_t* from) {
  return {load_bf16_half(from), load_bf16_half(from + 8)};
}

// The bf16 bits of each lane, in its lower 16 bits.
inline __m256i bf16_bits(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256 is_nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  const __m256 chosen =
      _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), is_nan);
  return _mm256_srli_epi32(_mm256_castps_si256(chosen), 16);
}
inline void store_bf16(Floats x, std::uint16_t* to) {
  const __m256i packed = _mm256_packus_epi32(bf16_bits(x.lo), bf16_bits(x.hi));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(packed, 0xD8));
}

inline void transpose8(__m256 (&r)[8]) {
  __m256 t[8], u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
    u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}

inline void transpose(Floats (&rows)[kLanes]) {
  __m256 quarters[2][2][8];  // [rows 0-7, 8-15][lanes 0-7, 8-15]
  for (int i = 0; i < 8; ++i) {
    quarters[0][0][i] = rows[i].lo;
    quarters[0][1][i] = rows[i].hi;
    quarters[1][0][i] = rows[i + 8].lo;
    quarters[1][1][i] = rows[i + 8].hi;
  }
  for (auto& half : quarters) {
    for (auto& quarter : half) transpose8(quarter);
  }
  for (int i = 0; i < 8; ++i) {
    rows[i] = {quarters[0][0][i], quarters[1][0][i]};
    rows[i + 8] = {quarters[0][1][i], quarters[1][1][i]};
  }
}

}  // namespace
}  // namespace loza::cpu
