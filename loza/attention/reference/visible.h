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

}  // namespace loza::reference
