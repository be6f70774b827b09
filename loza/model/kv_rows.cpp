#include "loza/model/kv_rows.h"

#include <torch/torch.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "loza/base/check.h"
#include "loza/base/parallel_for.h"

namespace loza {
namespace {

// Positions [begin, end) of a sequence that lie in one page, and where they stand among the
// tensor's rows.
struct Run {
  std::byte* page_rows;  // of `begin`
  std::int64_t tensor_row;
  std::int64_t num_rows;
};

std::byte* row_address(const PagedKvView& kv, std::int64_t sequence_idx, std::int64_t pos) {
  const std::int64_t slot = page_slot(kv, pos / kv.page_len);
  LOZA_CHECK(slot < kv.table_stride, slot, kv.table_stride);
  const std::int64_t page = kv.page_table[sequence_idx * kv.table_stride + slot];
  const std::int64_t element = page * kv.page_stride + pos % kv.page_len * kv.row_stride;
  return static_cast<std::byte*>(kv.pages) +
         element * static_cast<std::int64_t>(element_bytes(kv.dtype));
}

void add_runs(const PagedKvView& kv, std::int64_t sequence_idx, std::int64_t begin,
              std::int64_t end, std::int64_t tensor_row, std::vector<Run>& runs) {
  while (begin < end) {
    const std::int64_t page_end = (begin / kv.page_len + 1) * kv.page_len;
    const std::int64_t num_rows = std::min(end, page_end) - begin;
    runs.push_back({row_address(kv, sequence_idx, begin), tensor_row, num_rows});
    tensor_row += num_rows;
    begin += num_rows;
  }
}

enum class Direction { kFromPages, kToPages };

// REQUIRES: rows' last dimension is contiguous.
void copy_runs(const PagedKvView& kv, const std::vector<Run>& runs, const at::Tensor& rows,
               Direction direction) {
  const auto element = static_cast<std::int64_t>(element_bytes(kv.dtype));
  LOZA_CHECK(rows.device().is_cpu() && rows.stride(1) == 1 && rows.element_size() == element);
  LOZA_CHECK(rows.size(1) <= kv.row_stride, rows.size(1), kv.row_stride);
  auto* base = static_cast<std::byte*>(rows.data_ptr());
  const std::int64_t row_bytes = rows.size(1) * element;
  parallel_for(static_cast<std::int64_t>(runs.size()), [&](std::int64_t i) {
    const Run& run = runs[static_cast<std::size_t>(i)];
    for (std::int64_t r = 0; r < run.num_rows; ++r) {
      std::byte* page_row = run.page_rows + r * kv.row_stride * element;
      std::byte* tensor_row = base + (run.tensor_row + r) * rows.stride(0) * element;
      if (direction == Direction::kFromPages) {
        std::memcpy(tensor_row, page_row, static_cast<std::size_t>(row_bytes));
      } else {
        std::memcpy(page_row, tensor_row, static_cast<std::size_t>(row_bytes));
      }
    }
  });
}

// The past positions that a chunk starting at `first_pos` sees: [0, kept) and
// [recent_begin, first_pos).
struct VisiblePast {
  std::int64_t kept = 0, recent_begin = 0;
};

VisiblePast visible_past(const BlockPattern& pattern, std::int64_t first_pos) {
  const VisibleBlocks blocks = visible_blocks(pattern, first_pos / pattern.block_size);
  return {blocks.sink.end * pattern.block_size, blocks.recent.begin * pattern.block_size};
}

}  // namespace

ChunkRows gather_chunk(const PagedKvView& kv, const BlockPattern& pattern,
                       const std::vector<std::int64_t>& offsets, const at::Tensor& new_rows) {
  ChunkRows chunk;
  attention::Sequences& sequences = chunk.sequences;
  sequences.q_offsets = offsets;
  sequences.k_offsets = {0};
  std::vector<Run> runs;
  const std::size_t num_sequences = offsets.size() - 1;
  for (std::size_t b = 0; b < num_sequences; ++b) {
    const std::int64_t new_len = offsets[b + 1] - offsets[b];
    const std::int64_t first_pos = kv.lengths[b] - new_len;
    LOZA_CHECK(first_pos >= 0, kv.lengths[b], new_len);
    const VisiblePast past = visible_past(pattern, first_pos);
    const std::int64_t begin = sequences.k_offsets.back();
    const auto sequence_idx = static_cast<std::int64_t>(b);
    add_runs(kv, sequence_idx, 0, past.kept, begin, runs);
    add_runs(kv, sequence_idx, past.recent_begin, first_pos, begin + past.kept, runs);
    sequences.kept_prefix.push_back(past.kept);
    sequences.skipped.push_back(past.recent_begin - past.kept);
    sequences.k_offsets.push_back(begin + past.kept + kv.lengths[b] - past.recent_begin);
  }
  const bool all_there = std::all_of(sequences.skipped.begin(), sequences.skipped.end(),
                                     [](std::int64_t skipped) { return skipped == 0; });
  if (all_there) {
    sequences.kept_prefix.clear();
    sequences.skipped.clear();
  }
  if (runs.empty()) {
    chunk.rows = new_rows;
    return chunk;
  }

  chunk.rows = at::empty({sequences.k_offsets.back(), new_rows.size(1)}, new_rows.options());
  copy_runs(kv, runs, chunk.rows, Direction::kFromPages);
  for (std::size_t b = 0; b < num_sequences; ++b) {
    const std::int64_t new_len = offsets[b + 1] - offsets[b];
    chunk.rows.narrow(0, sequences.k_offsets[b + 1] - new_len, new_len)
        .copy_(new_rows.narrow(0, offsets[b], new_len));
  }
  return chunk;
}

void write_rows(const PagedKvView& kv, const std::vector<std::int64_t>& offsets,
                const at::Tensor& new_rows) {
  std::vector<Run> runs;
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    const std::int64_t end = kv.lengths[b], new_len = offsets[b + 1] - offsets[b];
    if (new_len == 0) continue;
    const std::int64_t begin = end - new_len;
    const auto sequence_idx = static_cast<std::int64_t>(b);
    std::int64_t sink_end = begin, alive_begin = begin;
    if (kv.ring_pages != 0) {
      const std::int64_t last_page = (end - 1) / kv.page_len;
      sink_end = std::clamp(kv.sink_pages * kv.page_len, begin, end);
      alive_begin = std::max(sink_end, (last_page - kv.ring_pages + 1) * kv.page_len);
    }
    add_runs(kv, sequence_idx, begin, sink_end, offsets[b], runs);
    add_runs(kv, sequence_idx, alive_begin, end, offsets[b] + alive_begin - begin, runs);
  }
  copy_runs(kv, runs, new_rows, Direction::kToPages);
}

}  // namespace loza
