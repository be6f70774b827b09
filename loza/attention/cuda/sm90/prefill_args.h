#pragma once

#include <cuda.h>

#include "loza/attention/cuda/query_tiles.h"

namespace loza::attention::cuda {

// Rows and positions of one sequence; the rules are those of ForwardParams (params.h).
struct PrefillSequence {
  int tile_begin;          // its first query tile, counted over all sequences
  int q_begin, first_pos;  // row and position of its first query; the latter may be negative
  int end_pos;             // one past the position of its last query and last key
  int k_begin;             // row of its first key
  int kept_prefix, skipped;
};

// So many fit into a launch's arguments, beside which a launch needs nothing.
inline constexpr int kMostPrefillSequences = 128;

// What the prefill kernel is launched with.
struct PrefillArgs {
  // [H, sub-tiles, tokens, 64 elements], innermost last. sink_q_map and key_tail_map (the last
  // sub-tile of every head's key, if the heads share it) are used only where the flags say so.
  CUtensorMap q_map, sink_q_map, k_map, key_tail_map, v_map;
  bool has_sink_q, has_key_tail;

  void* out;  // [T, H, V]
  std::int64_t out_token_stride, out_head_stride;
  float* lse;  // [T, H] or null

  int num_heads, group_size;  // group_size = H / G
  int heads_in_turn;          // a divisor of H: that many heads are worked on together
  int num_tiles;              // query tiles of all sequences
  PagePattern pattern;
  float scale_log2;  // scale * log2(e)

  int num_sequences;
  PrefillSequence sequences[kMostPrefillSequences];
};

}  // namespace loza::attention::cuda
