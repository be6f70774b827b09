#pragma once

#include <immintrin.h>

#include "loza/attention/cpu/tile.h"

// Words that hold two bf16 numbers each, multiplied and added by one instruction (which takes
// subnormal numbers for zeros). For bf16 tensors alone. Include after floats_avx512.h.
namespace loza::cpu {
namespace {

constexpr int kWordElements = 2;

struct Words {
  __m512i v;
};

inline Words load_words(const Word* from) { return {_mm512_loadu_si512(from)}; }
inline Words in_register(Words x) {
  asm("" : "+v"(x.v));
  return x;
}
inline void store_words(Words words, Word* to) { _mm512_storeu_si512(to, words.v); }
inline Words broadcast_word(const Word* from) {
  return {_mm512_set1_epi32(static_cast<int>(*from))};
}
inline Floats accumulate(Floats sum, Words a, Words b) {
  return {_mm512_dpbf16_ps(sum.v, (__m512bh)a.v, (__m512bh)b.v)};
}

inline void store_row_of_a(Floats x, Word* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(x.v));
}

template <DType dtype>
inline Words words_of_row(const void* from) {
  static_assert(dtype == DType::kBF16, "these kernels are for bf16 tensors");
  return {_mm512_loadu_si512(from)};
}

inline Words interleave(__m256i even, __m256i odd) {
  return {_mm512_or_si512(_mm512_cvtepu16_epi32(even),
                          _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16))};
}
template <DType dtype>
inline Words words_across_rows(const void* const (&rows)[kWordElements]) {
  return interleave(_mm256_loadu_si256(static_cast<const __m256i*>(rows[0])),
                    _mm256_loadu_si256(static_cast<const __m256i*>(rows[1])));
}
struct WordsPair {
  Words first, second;
};
template <DType dtype>
inline WordsPair pair_across_rows(const void* const (&rows)[kWordElements]) {
  // Lane i of the first: elements i of both rows; the numbers of the second row count from 32.
  const auto indices = [](std::int16_t first) {
    alignas(64) std::int16_t to[32] = {};
    for (std::int16_t i = 0; i < 16; ++i) {
      to[2 * i] = static_cast<std::int16_t>(first + i);
      to[2 * i + 1] = static_cast<std::int16_t>(32 + first + i);
    }
    return _mm512_load_si512(to);
  };
  const __m512i even = _mm512_loadu_si512(rows[0]), odd = _mm512_loadu_si512(rows[1]);
  return {{_mm512_permutex2var_epi16(even, indices(0), odd)},
          {_mm512_permutex2var_epi16(even, indices(16), odd)}};
}
inline Words words_across_rows(const Floats (&rows)[kWordElements]) {
  return interleave((__m256i)_mm512_cvtneps_pbh(rows[0].v), (__m256i)_mm512_cvtneps_pbh(rows[1].v));
}

inline void transpose_words(Words (&words)[kLanes]) {
  Floats rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i].v = _mm512_castsi512_ps(words[i].v);
  transpose(rows);
  for (int i = 0; i < kLanes; ++i) words[i].v = _mm512_castps_si512(rows[i].v);
}

}  // namespace
}  // namespace loza::cpu
