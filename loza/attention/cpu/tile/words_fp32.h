#pragma once

#include "loza/attention/cpu/tile.h"

// Words that hold one fp32 number each; bf16 tensors are widened when they are packed.
// Include after a floats_*.h.
namespace loza::cpu {
namespace {

constexpr int kWordElements = 1;

using Words = Floats;  // 16 words

inline Words load_words(const Word* from) { return load(reinterpret_cast<const float*>(from)); }
inline void store_words(Words words, Word* to) { store(words, reinterpret_cast<float*>(to)); }
inline Words broadcast_word(const Word* from) {
  return broadcast(*reinterpret_cast<const float*>(from));
}
// sum + a * b, word by word.
inline Floats accumulate(Floats sum, Words a, Words b) { return multiply_add(a, b, sum); }

// 16 elements of an A operand's row.
inline void store_row_of_a(Floats x, Word* to) { store(x, reinterpret_cast<float*>(to)); }

// 16 words from 16 elements of a row.
template <DType dtype>
inline Words words_of_row(const void* from) {
  if constexpr (dtype == DType::kF32) return load(static_cast<const float*>(from));
  return load_bf16(static_cast<const std::uint16_t*>(from));
}

// 16 words, lane i from element i of each of kWordElements rows.
template <DType dtype>
inline Words words_across_rows(const void* const (&rows)[kWordElements]) {
  return words_of_row<dtype>(rows[0]);
}
// The same for 32 elements of each row.
struct WordsPair {
  Words first, second;
};
template <DType dtype>
inline WordsPair pair_across_rows(const void* const (&rows)[kWordElements]) {
  constexpr std::int64_t bytes = kLanes * (dtype == DType::kF32 ? 4 : 2);
  return {words_of_row<dtype>(rows[0]),
          words_of_row<dtype>(static_cast<const char*>(rows[0]) + bytes)};
}
inline Words words_across_rows(const Floats (&rows)[kWordElements]) { return rows[0]; }

inline void transpose_words(Words (&words)[kLanes]) { transpose(words); }

}  // namespace
}  // namespace loza::cpu
