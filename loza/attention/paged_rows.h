#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "loza/attention/params.h"
#include "loza/attention/pattern.h"

// Which rows of the pages hold which positions, for code that moves rows by tensor operations.
// A row is what one token leaves behind in a module's cache.
namespace loza::attention {

// Consecutive rows: of pages, counted over all of them, or of a tensor.
struct RowRun {
  std::int64_t first_row = 0;
  std::int64_t num_rows = 0;
};

// Appends the runs of positions [begin, end), each within a page.
// REQUIRES: page_stride is a multiple of row_stride.
void add_runs(const PagedKvView& kv, std::int64_t sequence_idx, std::int64_t begin,
              std::int64_t end, std::vector<RowRun>& runs);

// The past positions that queries from `first_pos` on see: [0, kept) and [recent_begin, first_pos).
struct VisiblePast {
  std::int64_t kept = 0, recent_begin = 0;
};
VisiblePast visible_past(const BlockPattern& pattern, std::int64_t first_pos);

// The rows of all pages, [rows, row_stride]: a view of kv.pages, which lie on the options' device.
at::Tensor all_rows(const PagedKvView& kv, const std::vector<RowRun>& runs,
                    const at::TensorOptions& options);

// The runs' rows one by one: [sum of num_rows] int64 on the device.
at::Tensor row_indices(const std::vector<RowRun>& runs, at::Device device);

}  // namespace loza::attention
