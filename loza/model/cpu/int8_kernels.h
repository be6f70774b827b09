#pragma once

#include <cstdint>

#include "loza/base/dtype.h"
#include "loza/model/cpu/product_out.h"

// Products of rows with an int8 weight, as one instruction set does them: rows and weight are cut
// into groups of 32 numbers along K, each group is integers times one scale, and
//   out[m][n] = sum over groups of x_scale[m][g] * w_scale[n][g] * (integers of m . integers of n)
// (and where a row has several terms, the sum of theirs). A group's product is exact (int32), the
// sum over groups is fp32, in order: what a row gives depends on neither the other rows nor on how
// the work is shared.
namespace loza::model_cpu {

inline constexpr std::int64_t kGroup = 32;         // numbers along K with one scale
inline constexpr std::int64_t kPanelOutputs = 32;  // outputs that lie beside each other
inline constexpr std::int64_t kInt8TileRows = 6;   // rows that one call of a kernel takes at most

// A panel holds kPanelOutputs rows of W, group after group:
//   scales [32] bf16, then [kGroup / 4][32 outputs][4 numbers] uint8, which are integers + 128.
inline constexpr std::int64_t kGroupBytes = kPanelOutputs * (2 + kGroup);

// Rows as quantize_row leaves them. With integers q in [-127, 127]: x = q * scale up to rounding;
// a second term is the rounding, quantised in turn, and together they are as good as 15 bits.
struct Int8Rows {
  std::int8_t* integers = nullptr;  // [terms][M][num_groups * 32], zeros past K
  float* scales = nullptr;          // [terms][M][num_groups]
  // [terms][M][num_groups]: -128 * the group's sum, which takes the 128 out of a weight's numbers.
  std::int32_t* offsets = nullptr;
  std::int64_t num_terms = 1;
  std::int64_t num_rows = 0;  // M
  std::int64_t num_groups = 0;
};

struct Int8Kernels {
  // One row x [size] of a dtype to row m of `rows`, all terms. A group with a number that is not
  // finite gets NaN for its scale.
  void (*quantize_row)(const void* x, DType dtype, std::int64_t size, std::int64_t m,
                       const Int8Rows& rows);
  // Rows [first, first + count), count <= kInt8TileRows, times a panel whose outputs are
  // [begin, end) of `out`.
  void (*multiply_panel)(const Int8Rows& rows, std::int64_t first, std::int64_t count,
                         const std::uint8_t* panel, std::int64_t begin, std::int64_t end,
                         const ProductOut& out);
};

// Those of the current instruction set (attention/cpu/instruction_set.h). AVX-512 means VNNI
// here; processors that have AVX-512 without it run the AVX2 kernels.
const Int8Kernels& int8_kernels();

// What the instruction sets' files define.
const Int8Kernels& portable_int8_kernels();
const Int8Kernels& avx2_int8_kernels();
const Int8Kernels& avx512_vnni_int8_kernels();

}  // namespace loza::model_cpu
