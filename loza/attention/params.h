#pragma once

#include <cstdint>

#include "loza/attention/pattern.h"
#include "loza/base/dtype.h"

// What an attention call needs, as plain structs: pointers, sizes and strides, no owner and
// no tensor library. The door (attention.h) fills them from tensors, the engine from pages.
//
// Letters: B sequences, T query tokens (of all sequences together), S key tokens (likewise),
// H query heads, G key heads, D query and key size, V value size.
// Query head h reads key head h / (H / G).
// Strides are in elements. The innermost dimension (D or V) is contiguous.
//
// Sink queries. Where `sink_q` is given, a query that sees the sink apart from its recent blocks
// (VisibleBlocks::sink) is scored against the sink's keys by its row of sink_q, and by its row of q
// against all others. It lets a caller rotate the two differently: a sink at a capped distance.
//
// Numeric contract, for every implementation: accumulation in fp32 (fp64 for fp64 inputs);
// lse is the natural logarithm of the sum of exp(scale * q.k); a row that sees nothing gives
// out = 0 and lse = -inf; nothing outside the visible keys is read, so NaN there is harmless.
namespace loza {

// A [tokens, heads, size] operand.
struct TensorView {
  void* data = nullptr;
  std::int64_t token_stride = 0, head_stride = 0;
};

// Varlen attention over contiguous keys: prefill, chunked prefill and training.
// Sequence b owns query rows [q_offsets[b], q_offsets[b+1]) and key rows
// [k_offsets[b], k_offsets[b+1]).
//
// Positions. Key row i of a sequence (counted from its first) has position i, unless the
// caller holds only what a streaming module keeps, the sink and a recent stretch: then rows
// i >= kept_prefix[b] have position i + skipped[b], and the positions between are absent.
// The last query has the position of the last key, so that a chunk continues its prefix.
struct ForwardParams {
  DType dtype = DType::kF32;                  // of q, k, v, out
  std::int64_t num_sequences = 0;             // B
  std::int64_t num_heads = 0;                 // H
  std::int64_t num_key_heads = 0;             // G, divides H
  std::int64_t qk_size = 0;                   // D
  std::int64_t v_size = 0;                    // V
  const std::int64_t* q_offsets = nullptr;    // [B+1], from 0 to T, not decreasing
  const std::int64_t* k_offsets = nullptr;    // [B+1], from 0 to S, not decreasing
  const std::int64_t* kept_prefix = nullptr;  // [B], or null: all keys are there
  const std::int64_t* skipped = nullptr;      // [B], or null; a multiple of block_size
  BlockPattern pattern;
  double scale = 1;
  TensorView q;          // [T, H, D]
  TensorView sink_q;     // [T, H, D], or null: q
  TensorView k;          // [S, G, D]
  TensorView v;          // [S, G, V]
  TensorView out;        // [T, H, V], written whole
  float* lse = nullptr;  // [T, H] contiguous; may be null
};

// Gradients of the same call. All keys must be there (kept_prefix null).
struct BackwardParams {
  ForwardParams forward;  // out and lse as the forward call left them
  TensorView d_out;       // [T, H, V]
  TensorView d_q;         // [T, H, D], written whole
  TensorView d_sink_q;    // [T, H, D], likewise; without forward.sink_q not looked at
  TensorView d_k;         // [S, G, D], written whole, summed over a group's heads
  TensorView d_v;         // [S, G, V], likewise
};

// One module's keys and values in pages, for B sequences. A row is one cached token: G key
// heads at k_head_stride, then (or overlapping, as in MLA's latent form, where the value is
// the first V elements of the key) G value heads at v_offset. Position p of sequence b lies in
//
//   page  page_table[b * table_stride + slot(p / page_len)],  row  p % page_len
//   slot(i) = i,                                          if ring_pages == 0
//           = i,                                          if i < sink_pages
//           = sink_pages + (i - sink_pages) % ring_pages, otherwise.
//
// Table entries of pages that no query sees are never used to form an address.
struct PagedKvView {
  DType dtype = DType::kF32;
  void* pages = nullptr;       // [num_pages, page_len, row]
  std::int64_t num_pages = 0;  // 0: not said; kernels do not ask
  std::int64_t page_stride = 0, row_stride = 0;
  std::int64_t page_len = 0;       // divides block_size
  std::int64_t k_head_stride = 0;  // between key heads of a row
  std::int64_t v_offset = 0;       // of value head 0 from the row's start
  std::int64_t v_head_stride = 0;
  const std::int32_t* page_table = nullptr;  // [B, table_stride]
  std::int64_t table_stride = 0;
  const std::int64_t* lengths = nullptr;  // [B] tokens, the new ones included
  std::int64_t sink_pages = 0, ring_pages = 0;
};

LOZA_HOST_DEVICE constexpr std::int64_t page_slot(const PagedKvView& kv, std::int64_t page_idx) {
  if (kv.ring_pages == 0 || page_idx < kv.sink_pages) return page_idx;
  return kv.sink_pages + (page_idx - kv.sink_pages) % kv.ring_pages;
}

// Attention of a few new tokens a sequence over paged keys: decode. The new tokens' own keys
// are already in the pages. Query t of sequence b has position lengths[b] - q_len + t, and
// its own window.
struct DecodeParams {
  std::int64_t num_sequences = 0;  // B
  std::int64_t q_len = 1;          // query tokens a sequence, 1..8
  std::int64_t num_heads = 0;      // H
  std::int64_t num_key_heads = 0;  // G
  std::int64_t qk_size = 0, v_size = 0;
  BlockPattern pattern;
  double scale = 1;
  TensorView q;       // [B * q_len, H, D], kv.dtype
  TensorView sink_q;  // likewise, or null: q
  PagedKvView kv;
  TensorView out;        // [B * q_len, H, V], kv.dtype; rows past a length: 0
  float* lse = nullptr;  // [B * q_len, H]; may be null
};

}  // namespace loza
