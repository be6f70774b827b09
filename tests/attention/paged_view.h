#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "loza/attention/attention.h"

namespace loza::attention::testing {

// Pages [pages, page_len, 2 * key_heads * size] of keys and then values, with a sink of two pages.
// REQUIRES: pages, table [B, stride] int32 and lengths outlive the view.
inline PagedKvView view_of_pages(const at::Tensor& pages, const at::Tensor& table,
                                 const std::vector<std::int64_t>& lengths, std::int64_t key_heads,
                                 std::int64_t ring_pages) {
  PagedKvView kv;
  kv.dtype = dtype_of(pages.scalar_type());
  kv.pages = pages.data_ptr();
  kv.page_stride = pages.stride(0);
  kv.row_stride = pages.stride(1);
  kv.page_len = pages.size(1);
  kv.k_head_stride = kv.v_head_stride = pages.size(2) / (2 * key_heads);
  kv.v_offset = pages.size(2) / 2;
  kv.page_table = table.data_ptr<std::int32_t>();
  kv.table_stride = table.size(1);
  kv.lengths = lengths.data();
  kv.sink_pages = 2;
  kv.ring_pages = ring_pages;
  return kv;
}

}  // namespace loza::attention::testing
