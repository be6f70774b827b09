#include "loza/attention/check_params.h"

#include <algorithm>

#include "loza/attention/sequence.h"
#include "loza/base/check.h"

namespace loza {
namespace {

constexpr std::int64_t kMaxDecodeTokens = 8;

void check_pattern(const BlockPattern& pattern) {
  LOZA_CHECK(pattern.block_size >= 1, pattern.block_size);
  LOZA_CHECK(pattern.sink_blocks >= 0, pattern.sink_blocks);
  LOZA_CHECK(pattern.recent_blocks >= 1, pattern.recent_blocks);
}

void check_heads(std::int64_t num_heads, std::int64_t num_key_heads, std::int64_t qk_size,
                 std::int64_t v_size) {
  LOZA_CHECK(num_heads >= 1 && num_key_heads >= 1, num_heads, num_key_heads);
  LOZA_CHECK(num_heads % num_key_heads == 0, num_heads, num_key_heads);
  LOZA_CHECK(qk_size >= 1 && v_size >= 1, qk_size, v_size);
}

// What the caller left out must be what no query sees: whole blocks between the sink and the
// first query's window.
void check_absent(const SequenceRows& rows, const BlockPattern& pattern) {
  const std::int64_t block = pattern.block_size;
  LOZA_CHECK(rows.kept_prefix >= 0 && rows.kept_prefix <= rows.k_end - rows.k_begin,
             rows.kept_prefix, rows.k_end - rows.k_begin);
  LOZA_CHECK(rows.skipped >= 0 && rows.skipped % block == 0, rows.skipped, block);
  if (rows.skipped == 0 || rows.q_begin == rows.q_end) return;
  LOZA_CHECK(rows.kept_prefix % block == 0, rows.kept_prefix, block);
  LOZA_CHECK(rows.first_query_pos() >= 0, rows.first_query_pos());
  const VisibleBlocks first = visible_blocks(pattern, rows.first_query_pos() / block);
  const std::int64_t absent_end = rows.kept_prefix + rows.skipped;
  LOZA_CHECK(first.sink.end * block <= rows.kept_prefix, first.sink.end, rows.kept_prefix);
  LOZA_CHECK(first.recent.begin * block >= absent_end, first.recent.begin, absent_end);
}

}  // namespace

void check_params(const ForwardParams& params) {
  check_pattern(params.pattern);
  check_heads(params.num_heads, params.num_key_heads, params.qk_size, params.v_size);
  LOZA_CHECK(params.num_sequences >= 0, params.num_sequences);
  for (std::int64_t b = 0; b < params.num_sequences; ++b) {
    const SequenceRows rows = sequence_rows(params, b);
    LOZA_CHECK(rows.q_begin >= 0 && rows.q_begin <= rows.q_end, b, rows.q_begin, rows.q_end);
    LOZA_CHECK(rows.k_begin >= 0 && rows.k_begin <= rows.k_end, b, rows.k_begin, rows.k_end);
    check_absent(rows, params.pattern);
  }
}

void check_params(const BackwardParams& params) {
  check_params(params.forward);
  for (std::int64_t b = 0; b < params.forward.num_sequences; ++b) {
    const SequenceRows rows = sequence_rows(params.forward, b);
    LOZA_CHECK(rows.skipped == 0, b, rows.skipped);
  }
}

void check_params(const DecodeParams& params) {
  check_pattern(params.pattern);
  check_heads(params.num_heads, params.num_key_heads, params.qk_size, params.v_size);
  LOZA_CHECK(params.num_sequences >= 0, params.num_sequences);
  LOZA_CHECK(params.q_len >= 1 && params.q_len <= kMaxDecodeTokens, params.q_len);
  const PagedKvView& kv = params.kv;
  const std::int64_t block = params.pattern.block_size;
  LOZA_CHECK(kv.page_len >= 1 && block % kv.page_len == 0, kv.page_len, block);
  LOZA_CHECK(kv.sink_pages >= 0 && kv.ring_pages >= 0, kv.sink_pages, kv.ring_pages);
  for (std::int64_t b = 0; b < params.num_sequences; ++b) {
    const std::int64_t length = kv.lengths[b];
    LOZA_CHECK(length >= 0, b, length);
    if (length == 0) continue;
    const std::int64_t last_page = (length - 1) / kv.page_len;
    LOZA_CHECK(page_slot(kv, last_page) < kv.table_stride, b, length, kv.table_stride);
    if (kv.ring_pages == 0) continue;
    // The windows of the new tokens must be alive in the ring together.
    const std::int64_t first_pos = std::max<std::int64_t>(0, length - params.q_len);
    const VisibleBlocks first = visible_blocks(params.pattern, first_pos / block);
    const std::int64_t first_page =
        std::max(first.recent.begin * (block / kv.page_len), kv.sink_pages);
    LOZA_CHECK(first.sink.end * (block / kv.page_len) <= kv.sink_pages, first.sink.end,
               kv.sink_pages);
    LOZA_CHECK(last_page - first_page < kv.ring_pages, b, length, kv.ring_pages);
  }
}

}  // namespace loza
