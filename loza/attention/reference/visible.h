#pragma once

#include <cstdint>

#include "loza/attention/pattern.h"

namespace loza::reference {

// The token rule, as the method states it: the definition that visible_blocks (pattern.h) is
// tested against. Positions are absolute and count from 0.
constexpr bool is_visible(const BlockPattern& pattern, std::int64_t query_pos,
                          std::int64_t key_pos) {
  const std::int64_t query_block = query_pos / pattern.block_size;
  const std::int64_t key_block = key_pos / pattern.block_size;
  return key_pos <= query_pos &&
         (key_block < pattern.sink_blocks || key_block >= query_block - pattern.recent_blocks + 1);
}

// Whether a visible key belongs to the sink apart from the query's recent blocks: then sink_q
// (params.h) scores it, where there is one.
constexpr bool is_apart(const BlockPattern& pattern, std::int64_t query_pos, std::int64_t key_pos) {
  const std::int64_t first_recent = query_pos / pattern.block_size - pattern.recent_blocks + 1;
  return first_recent > pattern.sink_blocks && key_pos / pattern.block_size < pattern.sink_blocks;
}

}  // namespace loza::reference
