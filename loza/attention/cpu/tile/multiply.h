#pragma once

#include "loza/attention/cpu/tile.h"

// Matrix products of the form that tile.h describes. Include after a words_*.h.
namespace loza::cpu {
namespace {

// What C holds before the product is added.
enum class Start {
  kZero,
  kKeep,    // what it held
  kRescale  // what it held times a factor for each row
};

struct Product {
  std::int64_t rows = 0;    // M
  std::int64_t panels = 0;  // N / 16
  std::int64_t words = 0;   // K
  const Word* a = nullptr;  // [M][a_stride]
  std::int64_t a_stride = 0;
  const Word* b = nullptr;    // [N / 16][K][16]
  std::int64_t b_stride = 0;  // words between panels
  float* c = nullptr;         // [M][c_stride]
  std::int64_t c_stride = 0;
  const float* factors = nullptr;  // [M], of Start::kRescale
};

// One tile of C, kept in registers while K is walked.
template <Start start, int rows, int vectors>
inline void multiply_tile(const Product& p, std::int64_t row, std::int64_t panel) {
  const Word* a = p.a + row * p.a_stride;
  const Word* b = p.b + panel * p.b_stride;
  float* c = p.c + row * p.c_stride + panel * kLanes;
  Floats sums[rows][vectors];
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) {
      if constexpr (start == Start::kZero) {
        sums[i][j] = zeros();
      } else {
        sums[i][j] = load(c + i * p.c_stride + j * kLanes);
        if constexpr (start == Start::kRescale) {
          sums[i][j] = sums[i][j] * broadcast(p.factors[row + i]);
        }
      }
    }
  }
  for (std::int64_t k = 0; k < p.words; ++k) {
    Words b_words[vectors];
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) {
      b_words[j] = in_register(load_words(b + j * p.b_stride + k * kLanes));
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const Words a_word = broadcast_word(a + i * p.a_stride + k);
#pragma GCC unroll 8
      for (int j = 0; j < vectors; ++j) {
        sums[i][j] = accumulate(sums[i][j], a_word, b_words[j]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) store(sums[i][j], c + i * p.c_stride + j * kLanes);
  }
}

// The last rows, fewer than kRegisterRows.
template <Start start, int rows, int vectors>
inline void multiply_last_rows(const Product& p, std::int64_t row, std::int64_t panel) {
  if constexpr (rows > 0) {
    if (p.rows - row == rows) return multiply_tile<start, rows, vectors>(p, row, panel);
    multiply_last_rows<start, rows - 1, vectors>(p, row, panel);
  }
}

template <Start start, int vectors>
void multiply_columns(const Product& p, std::int64_t panel) {
  std::int64_t row = 0;
  for (; row + kRegisterRows <= p.rows; row += kRegisterRows) {
    multiply_tile<start, kRegisterRows, vectors>(p, row, panel);
  }
  multiply_last_rows<start, kRegisterRows - 1, vectors>(p, row, panel);
}

// The last panels, fewer than kRegisterVectors.
template <Start start, int vectors>
inline void multiply_last_columns(const Product& p, std::int64_t panel) {
  if constexpr (vectors > 0) {
    if (p.panels - panel == vectors) return multiply_columns<start, vectors>(p, panel);
    multiply_last_columns<start, vectors - 1>(p, panel);
  }
}

// C = start + A B.
template <Start start>
inline void multiply(const Product& p) {
  std::int64_t panel = 0;
  for (; panel + kRegisterVectors <= p.panels; panel += kRegisterVectors) {
    multiply_columns<start, kRegisterVectors>(p, panel);
  }
  multiply_last_columns<start, kRegisterVectors - 1>(p, panel);
}

}  // namespace
}  // namespace loza::cpu
