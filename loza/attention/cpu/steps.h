#pragma once

#include <algorithm>
#include <cstdint>

#include "loza/attention/cpu/tile.h"
#include "loza/attention/pattern.h"

// How the keys of a sequence are laid out when packed, and in which steps kernels walk them.
namespace loza::cpu {

// Keys [first_pos, first_pos + num_keys) of a sequence.
struct KeyStep {
  std::int64_t first_pos = 0, num_keys = 0;
};

// Calls visit(KeyStep) for the keys of blocks [begin, end) before `end_pos`, in order, at most
// `step_keys` at a time. Steps end at multiples of step_keys, whatever the range: so a query meets
// the same steps in a prompt that comes in chunks. Blocks that aren't made of whole lanes are
// walked one by one. REQUIRES: step_keys is a multiple of kLanes.
template <typename Visit>
void for_each_step(const BlockPattern& pattern, BlockRange blocks, std::int64_t end_pos,
                   std::int64_t step_keys, const Visit& visit) {
  const std::int64_t block = pattern.block_size;
  const std::int64_t end = std::min(blocks.end * block, end_pos);
  std::int64_t pos = blocks.begin * block;
  while (pos < end) {
    std::int64_t next;
    if (block % kLanes == 0) {
      next = (pos / step_keys + 1) * step_keys;
    } else {
      const std::int64_t block_begin = pos / block * block;
      next = std::min(block_begin + ((pos - block_begin) / step_keys + 1) * step_keys,
                      block_begin + block);
    }
    next = std::min(next, end);
    visit(KeyStep{pos, next - pos});
    pos = next;
  }
}

// The key blocks that queries from `first_query_pos` to `end_pos` see, packed beside each
// other, each padded to whole lanes: the sink, then the recent ones.
struct KeyLayout {
  std::int64_t block_size = 0, padded_block_size = 0;
  std::int64_t num_sink_blocks = 0;  // blocks [0, num_sink_blocks)
  BlockRange recent;                 // and these

  static KeyLayout of(const BlockPattern& pattern, std::int64_t first_query_pos,
                      std::int64_t end_pos) {
    const std::int64_t block = pattern.block_size;
    const VisibleBlocks first = visible_blocks(pattern, first_query_pos / block);
    return {block,
            round_up(block, kLanes),
            first.sink.size(),
            {first.recent.begin, (end_pos + block - 1) / block}};
  }

  std::int64_t num_blocks() const { return num_sink_blocks + recent.size(); }
  // Packed keys, the padding included.
  std::int64_t num_keys() const { return num_blocks() * padded_block_size; }
  bool has(std::int64_t block_idx) const {
    return block_idx < num_sink_blocks || (block_idx >= recent.begin && block_idx < recent.end);
  }
  std::int64_t slot(std::int64_t block_idx) const {
    return block_idx < num_sink_blocks ? block_idx : block_idx - recent.begin + num_sink_blocks;
  }
  std::int64_t block_at(std::int64_t slot_idx) const {
    return slot_idx < num_sink_blocks ? slot_idx : slot_idx - num_sink_blocks + recent.begin;
  }
  // Where the key of a position stands among the packed ones.
  std::int64_t packed_key(std::int64_t pos) const {
    return slot(pos / block_size) * padded_block_size + pos % block_size;
  }
};

}  // namespace loza::cpu
