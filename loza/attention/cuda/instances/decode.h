#pragma once

#include <cstdint>

// The compiled decode kernels. One file an element type and pair of sizes.
namespace loza::attention::cuda {

struct DecodeKernel {
  const void* function = nullptr;  // __global__ void(DecodeArgs)
  int num_threads = 0, shared_bytes = 0;
  int num_rows = 0;       // query rows that a block takes
  int key_box_tiles = 0;  // 64-element sub-tiles of the boxes that k_map copies
  // Bit b: clusters of b blocks can be merged; and are worth planning.
  std::uint32_t merged_clusters = 0, planned_clusters = 0;
};

// Query rows that a block takes: of the swap kernel, and of the rows kernel, which 576/512 has.
inline constexpr int kMostSwapRows = 32, kMostDecodeRows = 64;

// The kernel for `rows` query rows. REQUIRES: 1 <= rows, at most kMostDecodeRows where there is a
// rows kernel, else at most kMostSwapRows.
DecodeKernel decode_bf16_576_512(int rows);
DecodeKernel decode_bf16_128_128(int rows);
DecodeKernel decode_bf16_64_64(int rows);
DecodeKernel decode_fp16_576_512(int rows);
DecodeKernel decode_fp16_128_128(int rows);
DecodeKernel decode_fp16_64_64(int rows);

}  // namespace loza::attention::cuda
