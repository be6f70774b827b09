#pragma once

#include <cstddef>
#include <cstdint>

#include "loza/base/dtype.h"

// What one instruction set offers to the kernels: packing of operands, and one step of the
// forward and of the backward pass on a tile. forward.cpp, backward.cpp and decode.cpp are
// written over these; the tile_*.cpp files implement them.
//
// Every matrix product here has one form, C [M, N] += A [M, K] B [K, N]:
//   A is read one word at a time and broadcast to all lanes;
//   B is read 16 lanes at a time, from panels of 16 columns, [N / 16][K words][16 words];
//   C is fp32, row by row.
// A word is 32 bits: one fp32 number, or (kernels with word_elements == 2) two bf16 numbers
// that stand beside each other along K, which one instruction multiplies and adds.
namespace loza::cpu {

using Word = std::uint32_t;

inline constexpr std::int64_t kLanes = 16;

// (Functions of this header are static: each instruction set's file compiles its own.)
static constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Rows of a tensor: the address of each, null for a row of zeros.
struct RowPointers {
  const void* const* rows = nullptr;
  std::int64_t count = 0;
  std::int64_t size = 0;  // elements of a row
  DType dtype = DType::kF32;
};

// Columns [begin, end) of a step that a query row sees.
struct ColumnRange {
  std::int32_t begin = 0, end = 0;

  friend bool operator==(const ColumnRange&, const ColumnRange&) = default;
};

// One step of online softmax: query rows [R] meet up to kStepKeys keys.
struct ForwardStep {
  std::int64_t num_rows = 0;             // R
  std::int64_t qk_words = 0;             // words of a query or key row
  std::int64_t v_panels = 0;             // ceil(V / 16)
  float scale_log2 = 0;                  // scale * log2(e)
  const Word* queries = nullptr;         // A [R][qk_words]
  const ColumnRange* visible = nullptr;  // [R]
  const Word* keys = nullptr;            // B, panels over keys: [keys / 16][qk_words][16]
  const Word* values = nullptr;          // B, panels over V: [v_panels][key words][16]
  std::int64_t value_panel_stride = 0;   // words between them
  // The state, in the base-2 domain: weights are exp2(scale_log2 * q.k - max).
  float* max = nullptr;  // [R]
  float* sum = nullptr;  // [R][16], partial sums to be added up at the end
  float* out = nullptr;  // [R][16 * v_panels], not yet divided by the sum
};

inline constexpr std::int64_t kStepKeys = 128;

// Memory that will be read soon.
struct MemoryRange {
  const std::byte* begin = nullptr;
  std::int64_t num_bytes = 0;
};

// One step of online softmax for few query rows, as in decode: keys and values are read where they
// were cached, since packing them would cost as much as the products. Every row sees every key.
// REQUIRES: qk_words and V are what reads_rows() of the kernels allows.
struct DecodeStep {
  DType dtype = DType::kF32;
  std::int64_t num_rows = 0;  // R, at most kDecodeRows
  std::int64_t qk_words = 0, v_panels = 0;
  float scale_log2 = 0;
  const Word* queries = nullptr;  // [qk_words / 16][queries_stride rows][16], from the first row on
  std::int64_t queries_stride = 0;
  std::int64_t num_keys = 0;            // at most kStepKeys
  const void* const* keys = nullptr;    // [num_keys] rows, D elements each
  const void* const* values = nullptr;  // [num_keys] rows, V elements each
  Word* room = nullptr;                 // [kStepKeys][qk_words], for keys that must be widened
  // Brought into the second cache meanwhile.
  const MemoryRange* coming = nullptr;  // [num_coming]
  std::int64_t num_coming = 0;
  float *max = nullptr, *sum = nullptr, *out = nullptr;  // the state, as in ForwardStep
};

inline constexpr std::int64_t kDecodeRows = 8;

// The gradients of keys, values and queries where query rows [R] meet keys [N].
struct BackwardStep {
  std::int64_t num_rows = 0;                 // R <= kTileRows, a multiple of 16
  std::int64_t num_keys = 0;                 // N <= kStepKeys
  std::int64_t qk_words = 0, v_words = 0;    // words of rows, along D and V
  std::int64_t qk_panels = 0, v_panels = 0;  // ceil(D / 16), ceil(V / 16)
  float scale_log2 = 0;
  // Key c of the step is seen by rows r >= c + first_row.
  std::int64_t first_row = 0;
  const Word* keys = nullptr;               // A [N][qk_words]
  const Word* values = nullptr;             // A [N][v_words]
  const Word* keys_transposed = nullptr;    // A [16 * qk_panels][key words]
  std::int64_t keys_transposed_stride = 0;  // words between its rows
  const Word* queries = nullptr;            // B, panels over rows: [R / 16][qk_words][16]
  const Word* d_outs = nullptr;             // B, panels over rows: [R / 16][v_words][16]
  const Word* queries_by_size = nullptr;    // B, panels over D: [qk_panels][row words][16]
  const Word* d_outs_by_size = nullptr;     // B, panels over V: [v_panels][row words][16]
  const float* lse_log2 = nullptr;          // [R]; +inf where a row sees nothing
  const float* delta = nullptr;             // [R], sum of d_out * out
  // Added to. d_queries and d_keys lack the factor `scale`.
  float* d_queries_transposed = nullptr;  // [16 * qk_panels][R]
  float* d_keys = nullptr;                // [N][16 * qk_panels]
  float* d_values = nullptr;              // [N][16 * v_panels]
};

inline constexpr std::int64_t kTileRows = 128;

struct TileKernels {
  std::int64_t word_elements = 1;

  std::int64_t words(std::int64_t elements) const {
    return (elements + word_elements - 1) / word_elements;
  }

  // A operand: [count][stride words]. Elements past a row's size are zeros.
  void (*pack_rows)(const RowPointers& from, std::int64_t stride, Word* to);
  // A operand of the transpose: [size][stride words], words along the rows.
  void (*pack_transposed)(const RowPointers& from, std::int64_t stride, Word* to);
  // B operand with a row in each lane: [ceil(count / 16)][words(size)][16].
  void (*pack_panels_of_rows)(const RowPointers& from, Word* to);
  // B operand with an element of the rows in each lane, words along the rows:
  // [ceil(size / 16)][words(count)][16] with panel_stride words between panels. Returns
  // whether every number is finite.
  bool (*pack_panels_of_size)(const RowPointers& from, std::int64_t panel_stride, Word* to);

  void (*forward_step)(const ForwardStep& step);
  void (*backward_step)(const BackwardStep& step);

  // Whether decode_step takes rows of these sizes.
  bool reads_rows(std::int64_t qk_size, std::int64_t v_size) const {
    return qk_size % (kLanes * word_elements) == 0 && v_size % (2 * kLanes) == 0;
  }
  // DecodeStep's queries: [words(size) / 16][count][16].
  void (*pack_decode_queries)(const RowPointers& from, Word* to);
  void (*decode_step)(const DecodeStep& step);

  // to [size] = factor * from [size], rounded to dtype.
  void (*store_row)(const float* from, float factor, std::int64_t size, DType dtype, void* to);
  // sum of a * b over [size].
  float (*dot_rows)(const void* a, const void* b, std::int64_t size, DType dtype);
};

// The kernels of the current instruction set for tensors of a dtype.
// REQUIRES: dtype is fp32 or bf16.
const TileKernels& tile_kernels(DType dtype);

// What the tile_*.cpp files define.
const TileKernels& portable_tile_kernels();
const TileKernels& avx2_tile_kernels();
const TileKernels& avx512_tile_kernels();
const TileKernels& avx512_bf16_tile_kernels();

}  // namespace loza::cpu
