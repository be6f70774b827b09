#include "loza/model/kv_rows.h"

#include <torch/torch.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "loza/attention/paged_rows.h"
#include "loza/base/check.h"
#include "loza/base/parallel_for.h"

namespace loza {
namespace {

using attention::RowRun;

enum class Direction { kFromPages, kToPages };

// Rows of the pages [runs] and rows of a tensor, in memory of the CPU.
// REQUIRES: rows' last dimension is contiguous.
void copy_on_cpu(const PagedKvView& kv, const std::vector<RowRun>& runs, const at::Tensor& rows,
                 Direction direction) {
  const std::int64_t row_bytes = rows.size(1) * rows.element_size();
  const std::int64_t page_row_bytes = kv.row_stride * rows.element_size();
  const std::int64_t tensor_row_bytes = rows.stride(0) * rows.element_size();
  std::vector<std::int64_t> tensor_rows;
  std::int64_t next_row = 0;
  for (const RowRun& run : runs) {
    tensor_rows.push_back(next_row);
    next_row += run.num_rows;
  }
  LOZA_CHECK(next_row <= rows.size(0), next_row, rows.size(0));
  parallel_for(static_cast<std::int64_t>(runs.size()), [&](std::int64_t i) {
    const RowRun& run = runs[static_cast<std::size_t>(i)];
    auto* page_row = static_cast<std::byte*>(kv.pages) + run.first_row * page_row_bytes;
    auto* tensor_row = static_cast<std::byte*>(rows.data_ptr()) +
                       tensor_rows[static_cast<std::size_t>(i)] * tensor_row_bytes;
    for (std::int64_t r = 0; r < run.num_rows; ++r) {
      const bool reads = direction == Direction::kFromPages;
      std::memcpy(reads ? tensor_row : page_row, reads ? page_row : tensor_row,
                  static_cast<std::size_t>(row_bytes));
      page_row += page_row_bytes;
      tensor_row += tensor_row_bytes;
    }
  });
}

void check_rows(const PagedKvView& kv, const at::Tensor& rows) {
  LOZA_CHECK(rows.stride(1) == 1 || rows.size(1) <= 1);
  LOZA_CHECK(rows.element_size() == static_cast<std::int64_t>(element_bytes(kv.dtype)));
  LOZA_CHECK(rows.size(1) <= kv.row_stride, rows.size(1), kv.row_stride);
}

// The rows become those of the runs.
void read_runs(const PagedKvView& kv, const std::vector<RowRun>& runs, const at::Tensor& rows) {
  if (runs.empty()) return;
  check_rows(kv, rows);
  if (rows.device().is_cpu()) return copy_on_cpu(kv, runs, rows, Direction::kFromPages);
  at::Tensor out = rows;
  at::index_select_out(out,
                       attention::all_rows(kv, runs, rows.options()).narrow(1, 0, rows.size(1)), 0,
                       attention::row_indices(runs, rows.device()));
}

// The runs' rows become the rows [first_row, ...) of `rows`.
void write_runs(const PagedKvView& kv, const std::vector<RowRun>& runs, const at::Tensor& rows,
                std::int64_t first_row) {
  if (runs.empty()) return;
  check_rows(kv, rows);
  const at::Tensor source = rows.narrow(0, first_row, rows.size(0) - first_row);
  if (rows.device().is_cpu()) return copy_on_cpu(kv, runs, source, Direction::kToPages);
  at::Tensor pages = attention::all_rows(kv, runs, rows.options()).narrow(1, 0, rows.size(1));
  // Indices have to come from the host, which waits for the device. A decoded token does without.
  constexpr std::size_t kFewRuns = 2;
  if (runs.size() <= kFewRuns) {
    std::int64_t row = 0;
    for (const RowRun& run : runs) {
      pages.narrow(0, run.first_row, run.num_rows).copy_(source.narrow(0, row, run.num_rows));
      row += run.num_rows;
    }
    return;
  }
  const at::Tensor indices = attention::row_indices(runs, rows.device());
  pages.index_copy_(0, indices, source.narrow(0, 0, indices.size(0)));
}

}  // namespace

ChunkRows gather_chunk(const PagedKvView& kv, const BlockPattern& pattern,
                       const std::vector<std::int64_t>& offsets, const at::Tensor& new_rows) {
  ChunkRows chunk;
  attention::Sequences& sequences = chunk.sequences;
  sequences.q_offsets = offsets;
  sequences.k_offsets = {0};
  std::vector<std::vector<RowRun>> past_runs;
  bool all_there = true, all_new = true;
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    const std::int64_t new_len = offsets[b + 1] - offsets[b];
    const std::int64_t first_pos = kv.lengths[b] - new_len;
    LOZA_CHECK(first_pos >= 0, kv.lengths[b], new_len);
    const attention::VisiblePast past = attention::visible_past(pattern, first_pos);
    const auto sequence_idx = static_cast<std::int64_t>(b);
    std::vector<RowRun>& runs = past_runs.emplace_back();
    attention::add_runs(kv, sequence_idx, 0, past.kept, runs);
    attention::add_runs(kv, sequence_idx, past.recent_begin, first_pos, runs);
    const std::int64_t skipped = past.recent_begin - past.kept;
    sequences.kept_prefix.push_back(past.kept);
    sequences.skipped.push_back(skipped);
    sequences.k_offsets.push_back(sequences.k_offsets.back() + kv.lengths[b] - skipped);
    all_there = all_there && skipped == 0;
    all_new = all_new && runs.empty();
  }
  if (all_there) {
    sequences.kept_prefix.clear();
    sequences.skipped.clear();
  }
  if (all_new) {
    chunk.rows = new_rows;
    return chunk;
  }

  chunk.rows = at::empty({sequences.k_offsets.back(), new_rows.size(1)}, new_rows.options());
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    const std::int64_t new_len = offsets[b + 1] - offsets[b];
    const std::int64_t begin = sequences.k_offsets[b], end = sequences.k_offsets[b + 1];
    read_runs(kv, past_runs[b], chunk.rows.narrow(0, begin, end - new_len - begin));
    chunk.rows.narrow(0, end - new_len, new_len).copy_(new_rows.narrow(0, offsets[b], new_len));
  }
  return chunk;
}

void write_rows(const PagedKvView& kv, const std::vector<std::int64_t>& offsets,
                const at::Tensor& new_rows) {
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
    std::vector<RowRun> sink, alive;
    attention::add_runs(kv, sequence_idx, begin, sink_end, sink);
    attention::add_runs(kv, sequence_idx, alive_begin, end, alive);
    write_runs(kv, sink, new_rows, offsets[b]);
    write_runs(kv, alive, new_rows, offsets[b] + alive_begin - begin);
  }
}

void write_rows(const PagedKvView& kv, const at::Tensor& places, const at::Tensor& new_rows) {
  LOZA_CHECK(kv.num_pages > 0 && kv.page_stride == kv.page_len * kv.row_stride, kv.num_pages,
             kv.page_stride);
  check_rows(kv, new_rows);
  at::Tensor rows = attention::all_rows(kv, {{0, kv.num_pages * kv.page_len}}, new_rows.options());
  rows.narrow(1, 0, new_rows.size(1)).index_copy_(0, places, new_rows);
}

}  // namespace loza
