#pragma once

#include "loza/attention/pattern.h"

// The pattern in pages, for the new tokens of one sequence together. Host and device; 32-bit,
// because lengths in pages are small and 64-bit division is slow on the device.
namespace loza::attention::cuda {

inline constexpr int kPageLen = 64;

// A BlockPattern as the kernels carry it.
struct PagePattern {
  int block_len = 128;  // a multiple of kPageLen
  int sink_blocks = 1;
  int recent_blocks = 7;  // both clipped to what 31 bits of length can hold

  // Where the recent keys of a query in `block` begin. REQUIRES: block >= 0.
  LOZA_HOST_DEVICE constexpr int recent_begin_of(int block) const {
    const auto blocks = visible_blocks({block_len, sink_blocks, recent_blocks}, block);
    return static_cast<int>(blocks.recent.begin) * block_len;
  }
  // Of the query at `pos`. REQUIRES: pos >= 0.
  LOZA_HOST_DEVICE constexpr int recent_begin(int pos) const {
    return recent_begin_of(pos / block_len);
  }
  LOZA_HOST_DEVICE constexpr int sink_len() const { return sink_blocks * block_len; }
};

LOZA_HOST_DEVICE constexpr PagePattern page_pattern(const BlockPattern& pattern) {
  const std::int64_t most = std::int64_t{0x7FFFFFFF} / pattern.block_size;
  const auto clip = [most](std::int64_t blocks) {
    return static_cast<int>(blocks < most ? blocks : most);
  };
  return {static_cast<int>(pattern.block_size), clip(pattern.sink_blocks),
          clip(pattern.recent_blocks)};
}

// The keys that at least one of the queries at positions [length - q_len, length) sees, as
// pages [0, sink_end) and [recent_begin, recent_begin + size - sink_end).
struct VisiblePages {
  int sink_end = 0, recent_begin = 0, size = 0;

  LOZA_HOST_DEVICE constexpr int page(int i) const {
    return i < sink_end ? i : i - sink_end + recent_begin;
  }
};

// block_of(pos) is pos / block_len.
template <typename BlockOf>
LOZA_HOST_DEVICE constexpr VisiblePages visible_pages(const PagePattern& pattern, int length,
                                                      int q_len, const BlockOf& block_of) {
  if (length <= 0) return {};
  // The first query sees furthest back; its sink ends before its recent keys by construction.
  const int first_pos = length > q_len ? length - q_len : 0;
  const int recent_begin = pattern.recent_begin_of(block_of(first_pos)) / kPageLen;
  const int sink_end = recent_begin == 0 ? 0 : pattern.sink_len() / kPageLen;
  const int end = (length - 1) / kPageLen + 1;
  return {sink_end, recent_begin, sink_end + end - recent_begin};
}

LOZA_HOST_DEVICE constexpr VisiblePages visible_pages(const PagePattern& pattern, int length,
                                                      int q_len) {
  return visible_pages(pattern, length, q_len, [&](int pos) { return pos / pattern.block_len; });
}

// The pages, last of the visible ones, that hold the new tokens.
LOZA_HOST_DEVICE constexpr int num_new_pages(int length, int q_len) {
  if (length <= 0) return 0;
  const int first_pos = length > q_len ? length - q_len : 0;
  return (length - 1) / kPageLen - first_pos / kPageLen + 1;
}

// Part `part` of `count` things dealt out in order to `num_parts`, the first parts one larger.
struct Share {
  int begin = 0, size = 0;
};

LOZA_HOST_DEVICE constexpr Share share_of(int count, int num_parts, int part) {
  const int least = num_parts == 1 ? count : count / num_parts;
  const int larger = count - least * num_parts;
  return {part * least + (part < larger ? part : larger), least + (part < larger ? 1 : 0)};
}

}  // namespace loza::attention::cuda
