#pragma once

#include "loza/attention/cuda/visible_pages.h"

// The pattern in tiles, for prefill. Host and device.
namespace loza::attention::cuda {

inline constexpr int kTileLen = 128;      // positions of a query tile, and of a key tile
inline constexpr int kConsumerRows = 64;  // queries of a tile that one warpgroup takes

// The tile that holds a position; positions before the first have negative ones.
LOZA_HOST_DEVICE constexpr int tile_of(int pos) {
  return pos >= 0 ? pos / kTileLen : -((-pos + kTileLen - 1) / kTileLen);
}

// The key tiles that query tile `query_tile` sees, newest first, the sink last. All rows of a
// tile see the same ones, because tiles are aligned to absolute positions, and only the first,
// the query tile's own, is partly hidden from some.
struct KeyTiles {
  int newest = 0, num_recent = 0, sink_end = 0;

  LOZA_HOST_DEVICE constexpr int size() const { return num_recent + sink_end; }
  LOZA_HOST_DEVICE constexpr int tile(int i) const {
    return i < num_recent ? newest - i : sink_end - 1 - (i - num_recent);
  }
};

// REQUIRES: pattern.block_len is a multiple of kTileLen.
LOZA_HOST_DEVICE constexpr KeyTiles key_tiles(const PagePattern& pattern, int query_tile) {
  if (query_tile < 0) return {};
  const int recent_begin = pattern.recent_begin(query_tile * kTileLen) / kTileLen;
  const int sink_end = recent_begin == 0 ? 0 : pattern.sink_len() / kTileLen;
  return {query_tile, query_tile + 1 - recent_begin, sink_end};
}

}  // namespace loza::attention::cuda
