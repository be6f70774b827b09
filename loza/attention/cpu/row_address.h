#pragma once

#include <cstddef>
#include <cstdint>

#include "loza/attention/params.h"
#include "loza/base/dtype.h"

namespace loza::cpu {

// Where element `element_idx` of an array of a dtype lies.
inline void* element_address(void* data, DType dtype, std::int64_t element_idx) {
  return static_cast<std::byte*>(data) +
         element_idx * static_cast<std::int64_t>(element_bytes(dtype));
}

// Where a row of a [tokens, heads, size] operand begins.
inline void* row_address(const TensorView& view, DType dtype, std::int64_t token_idx,
                         std::int64_t head_idx) {
  return element_address(view.data, dtype,
                         token_idx * view.token_stride + head_idx * view.head_stride);
}

}  // namespace loza::cpu
