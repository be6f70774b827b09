#include "loza/attention/paged_rows.h"

#include <torch/torch.h>

#include <algorithm>

#include "loza/base/check.h"

namespace loza::attention {

void add_runs(const PagedKvView& kv, std::int64_t sequence_idx, std::int64_t begin,
              std::int64_t end, std::vector<RowRun>& runs) {
  LOZA_CHECK(kv.page_stride % kv.row_stride == 0, kv.page_stride, kv.row_stride);
  const std::int64_t rows_per_page = kv.page_stride / kv.row_stride;
  while (begin < end) {
    const std::int64_t slot = page_slot(kv, begin / kv.page_len);
    LOZA_CHECK(slot < kv.table_stride, slot, kv.table_stride);
    const std::int64_t page = kv.page_table[sequence_idx * kv.table_stride + slot];
    const std::int64_t page_end = (begin / kv.page_len + 1) * kv.page_len;
    const std::int64_t num_rows = std::min(end, page_end) - begin;
    runs.push_back({page * rows_per_page + begin % kv.page_len, num_rows});
    begin += num_rows;
  }
}

VisiblePast visible_past(const BlockPattern& pattern, std::int64_t first_pos) {
  const VisibleBlocks blocks = visible_blocks(pattern, first_pos / pattern.block_size);
  return {blocks.sink.end * pattern.block_size, blocks.recent.begin * pattern.block_size};
}

at::Tensor all_rows(const PagedKvView& kv, const std::vector<RowRun>& runs,
                    const at::TensorOptions& options) {
  std::int64_t num_rows = 0;
  for (const RowRun& run : runs) num_rows = std::max(num_rows, run.first_row + run.num_rows);
  return at::from_blob(kv.pages, {num_rows, kv.row_stride}, options.requires_grad(false));
}

at::Tensor row_indices(const std::vector<RowRun>& runs, at::Device device) {
  // Row i of the result, of run r, is i + (first_row[r] - rows before r).
  std::vector<std::int64_t> shifts, lengths;
  std::int64_t num_rows = 0;
  for (const RowRun& run : runs) {
    shifts.push_back(run.first_row - num_rows);
    lengths.push_back(run.num_rows);
    num_rows += run.num_rows;
  }
  const auto on_device = [&](const std::vector<std::int64_t>& values) {
    return torch::tensor(values, at::kLong).to(device);
  };
  return at::repeat_interleave(on_device(shifts), on_device(lengths), 0, num_rows)
      .add_(at::arange(num_rows, at::TensorOptions(at::kLong).device(device)));
}

}  // namespace loza::attention
