#pragma once

#include <cuda.h>

#include <cstdint>

#include "loza/attention/cuda/visible_pages.h"

// Letters as in params.h; a group is the H / G query
// heads of one key head; a row is one (query token, head of the group) pair, token-major; rows
// are cut into tiles of at most the kernel's kRows.
namespace loza::attention::cuda {

// Blocks of a cluster, and clusters of an item, that can be merged.
inline constexpr int kMostBlocks = 16;
inline constexpr int kMostClusters = 64;

// The output elements that a block of a cluster merges, but for the last ones: whole vectors of 4.
LOZA_HOST_DEVICE constexpr int slice_stride(int v_size, int cluster_size) {
  return (v_size / 4 + cluster_size - 1) / cluster_size * 4;
}

// Division of numbers below 2^31 by multiplication: a division takes the device a hundred clocks.
struct Divisor {
  unsigned divisor = 1, inverse = 0xFFFFFFFFu;

  Divisor() = default;
  LOZA_HOST_DEVICE explicit constexpr Divisor(unsigned divisor)
      : divisor(divisor), inverse(0xFFFFFFFFu / divisor) {}
#ifdef __CUDACC__
  // The product's upper half is the quotient or one less.
  __device__ __forceinline__ int divide(unsigned number) const {
    const unsigned least = __umulhi(number, inverse);
    return static_cast<int>(least + (number - least * divisor >= divisor ? 1 : 0));
  }
#endif
};

// What the decode kernel is launched with.
struct DecodeArgs {
  // [pages, G, sub-tiles, 64 tokens, 64 elements], innermost last; v_map is unused where the
  // value lies in the key.
  CUtensorMap k_map, v_map;

  const void* q;  // [B * q_len, H, D]
  std::int64_t q_token_stride, q_head_stride;
  const void* sink_q;  // likewise, or null: q
  std::int64_t sink_q_token_stride, sink_q_head_stride;
  void* out;  // [B * q_len, H, V]
  std::int64_t out_token_stride, out_head_stride;
  float* lse;  // [B * q_len, H] or null

  const std::int32_t* page_table;  // [B, table_stride]
  std::int64_t table_stride;
  const std::int64_t* lengths;  // [B]
  int sink_pages, ring_pages;

  int q_len, num_heads, num_key_heads, group_size;  // group_size = H / G
  int num_row_tiles, rows_per_tile;
  int num_clusters;  // of one (sequence, key head, row tile), an "item"
  PagePattern pattern;
  Divisor by_block, by_units, by_cluster, by_ring, by_stride;  // block_len; blocks of an item; of
                                                               // a cluster; ring_pages; slices
  float scale_log2;                                            // scale * log2(e)
  bool stable_prefix;                                          // see Inputs in decode.h

  // With several clusters an item, in the workspace; item = (b * G + g) * num_row_tiles + tile.
  std::uint32_t* counters;  // [items, cluster_size], 0 between launches
  float2* partial_stats;    // [items, cluster_size, num_clusters, kRows] (max, sum)
  float* partial_out;       // [items, num_clusters, kRows, V]; of the rows kernel each sub-tile as
                            // its threads hold it
};

}  // namespace loza::attention::cuda
