#pragma once

#include <cstdint>

#include "loza/attention/params.h"

namespace loza {

// Where one sequence's rows lie in the packed tensors, and which positions they have. The
// rules are ForwardParams' (params.h).
struct SequenceRows {
  std::int64_t q_begin = 0, q_end = 0;  // rows of q and out
  std::int64_t k_begin = 0, k_end = 0;  // rows of k and v
  std::int64_t kept_prefix = 0, skipped = 0;

  // One past the position of the last key, which is also the last query's.
  std::int64_t end_pos() const { return k_end - k_begin + skipped; }
  // Negative when there are more queries than positions: such queries see nothing.
  std::int64_t first_query_pos() const { return end_pos() - (q_end - q_begin); }

  // REQUIRES: 0 <= pos < end_pos(), and the position is not among the absent ones.
  std::int64_t key_row(std::int64_t pos) const {
    return k_begin + (pos < kept_prefix ? pos : pos - skipped);
  }
  bool is_absent(std::int64_t pos) const {
    return pos >= kept_prefix && pos < kept_prefix + skipped;
  }
};

inline SequenceRows sequence_rows(const ForwardParams& params, std::int64_t sequence_idx) {
  SequenceRows rows;
  rows.q_begin = params.q_offsets[sequence_idx];
  rows.q_end = params.q_offsets[sequence_idx + 1];
  rows.k_begin = params.k_offsets[sequence_idx];
  rows.k_end = params.k_offsets[sequence_idx + 1];
  if (params.kept_prefix != nullptr) rows.kept_prefix = params.kept_prefix[sequence_idx];
  if (params.skipped != nullptr) rows.skipped = params.skipped[sequence_idx];
  // Without a gap every row has its own position, wherever the prefix is said to end.
  if (rows.skipped == 0) rows.kept_prefix = 0;
  return rows;
}

}  // namespace loza
