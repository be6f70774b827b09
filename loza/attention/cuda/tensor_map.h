#pragma once

#include <cuda.h>

#include <cstdint>

#include "loza/base/dtype.h"

// Tensor maps: what the copy engine must know of a tensor in device memory.
namespace loza::attention::cuda {

// Keys or values in pages, seen as [pages, G, sub-tiles, 64 tokens, 64 elements] (innermost
// last). A box is `box_tiles` sub-tiles of one page and head, and lands in shared memory in
// the layout of device/layout.cuh. Strides in elements; `data` and all strides at multiples
// of 16 bytes.
struct PagedOperand {
  DType dtype = DType::kBF16;
  const void* data = nullptr;  // of page 0, head 0
  std::int64_t size = 0;       // elements of a head, a multiple of 64
  std::int64_t num_heads = 0;
  std::int64_t row_stride = 0, head_stride = 0, page_stride = 0;
  int box_tiles = 0;
};

// Rows of heads, packed over all sequences, seen as [heads, sub-tiles, tokens, 64 elements]. A
// box is `box_tokens` tokens of all sub-tiles of a head; rows outside the tensor arrive as zeros.
struct PackedOperand {
  DType dtype = DType::kBF16;
  const void* data = nullptr;
  std::int64_t size = 0;  // elements of a head, a multiple of 64
  std::int64_t num_tokens = 0, num_heads = 0;
  std::int64_t token_stride = 0, head_stride = 0;
  int box_tokens = 0;
};

// False if the driver refuses or there is none.
bool encode_tensor_map(const PagedOperand& operand, CUtensorMap* map);
bool encode_tensor_map(const PackedOperand& operand, CUtensorMap* map);

}  // namespace loza::attention::cuda
