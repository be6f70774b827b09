#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define LOZA_HOST_DEVICE __host__ __device__
#else
#define LOZA_HOST_DEVICE
#endif

namespace loza {

// Key blocks [begin, end).
struct BlockRange {
  std::int64_t begin = 0, end = 0;

  LOZA_HOST_DEVICE constexpr std::int64_t size() const { return end - begin; }
};

// Which key blocks a query block sees: at most two ranges, in order, disjoint; `sink` is
// empty when it would touch or overlap `recent`, which then begins at 0.
struct VisibleBlocks {
  BlockRange sink, recent;

  LOZA_HOST_DEVICE constexpr std::int64_t size() const { return sink.size() + recent.size(); }
};

// What a query may see, in blocks of `block_size` positions: the first `sink_blocks`, and
// the last `recent_blocks` ending with the query's own, which is seen up to the query.
// Full causal attention is the value full(), not another type.
//
//   visible(p, j)  <=>  j <= p  and  (j/b < sink_blocks  or  j/b >= p/b - recent_blocks + 1)
//
// (integer division; b = block_size; p, j absolute 0-based positions). LongCat ZigZag
// Attention, arXiv 2512.23966: b = 128, 1 sink block, 7 recent ones.
struct BlockPattern {
  std::int64_t block_size = 128;
  std::int64_t sink_blocks = 1;
  std::int64_t recent_blocks = 7;

  // More blocks than any sequence has, and far from overflow when multiplied by a length.
  static constexpr std::int64_t kAllBlocks = std::int64_t{1} << 24;

  LOZA_HOST_DEVICE static constexpr BlockPattern full(std::int64_t block_size = 128) {
    return {block_size, 0, kAllBlocks};
  }
  LOZA_HOST_DEVICE constexpr bool is_full() const { return recent_blocks >= kAllBlocks; }
  // Positions up to here see everything before them, whatever the pattern.
  LOZA_HOST_DEVICE constexpr std::int64_t exact_len() const {
    return (sink_blocks + recent_blocks) * block_size;
  }
  friend constexpr bool operator==(const BlockPattern&, const BlockPattern&) = default;
};

// The one truth about visibility, for kernels, masks, FLOP counts and the KV ring alike.
// REQUIRES: block_size >= 1, sink_blocks >= 0, recent_blocks >= 1, query_block >= 0.
LOZA_HOST_DEVICE constexpr VisibleBlocks visible_blocks(const BlockPattern& pattern,
                                                        std::int64_t query_block) {
  const std::int64_t end = query_block + 1;
  const std::int64_t recent = end - pattern.recent_blocks;
  if (recent <= pattern.sink_blocks) return {{0, 0}, {0, end}};
  return {{0, pattern.sink_blocks}, {recent, end}};
}

// The inverse, for gradients of keys: the query blocks [begin, end) that see `key_block`
// among `num_query_blocks` (query blocks counted from position 0).
LOZA_HOST_DEVICE constexpr BlockRange seeing_blocks(const BlockPattern& pattern,
                                                    std::int64_t key_block,
                                                    std::int64_t num_query_blocks) {
  const bool always = key_block < pattern.sink_blocks || pattern.is_full();
  const std::int64_t last = key_block + pattern.recent_blocks;
  return {key_block, always || last > num_query_blocks ? num_query_blocks : last};
}

// Keys that the query at `query_pos` sees.
LOZA_HOST_DEVICE constexpr std::int64_t num_visible_keys(const BlockPattern& pattern,
                                                         std::int64_t query_pos) {
  const VisibleBlocks blocks = visible_blocks(pattern, query_pos / pattern.block_size);
  return blocks.sink.size() * pattern.block_size + query_pos + 1 -
         blocks.recent.begin * pattern.block_size;
}

// Blocks of KV that a module must keep while the last `num_new` tokens may still be queried
// together: the sink and a ring of this many recent blocks. (Two consecutive windows are
// alive at once when the new tokens can cross a block edge.)
LOZA_HOST_DEVICE constexpr std::int64_t num_ring_blocks(const BlockPattern& pattern,
                                                        std::int64_t num_new) {
  return pattern.recent_blocks + (num_new + pattern.block_size - 2) / pattern.block_size;
}

}  // namespace loza
