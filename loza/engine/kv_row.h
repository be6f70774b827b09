#pragma once

#include <cstddef>
#include <cstdint>

#include "loza/attention/params.h"
#include "loza/base/dtype.h"

namespace loza {

// One cached token of one attention module; the row of PagedKvView (attention/params.h).
struct KvRow {
  DType dtype = DType::kF32;
  std::int64_t size = 0;  // elements
  std::int64_t k_head_stride = 0;
  std::int64_t v_offset = 0;
  std::int64_t v_head_stride = 0;

  std::int64_t size_bytes() const { return size * static_cast<std::int64_t>(element_bytes(dtype)); }

  // G key heads of qk_size, then G value heads of v_size.
  static constexpr KvRow heads(DType dtype, std::int64_t num_key_heads, std::int64_t qk_size,
                               std::int64_t v_size) {
    return {dtype, num_key_heads * (qk_size + v_size), qk_size, num_key_heads * qk_size, v_size};
  }
  // MLA: [latent R | rotated P], one head whose value is the latent.
  static constexpr KvRow latent(DType dtype, std::int64_t kv_lora_rank, std::int64_t rope_size) {
    return {dtype, kv_lora_rank + rope_size, 0, 0, 0};
  }
};

// A view of pages of such rows, without a table.
inline PagedKvView view_of(const KvRow& row, std::int64_t page_len, std::byte* pages) {
  PagedKvView view;
  view.dtype = row.dtype;
  view.pages = pages;
  view.page_stride = page_len * row.size;
  view.row_stride = row.size;
  view.page_len = page_len;
  view.k_head_stride = row.k_head_stride;
  view.v_offset = row.v_offset;
  view.v_head_stride = row.v_head_stride;
  return view;
}

}  // namespace loza
