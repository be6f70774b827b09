#pragma once

#include <cstdint>

#include "loza/attention/pattern.h"

// How operands lie in shared memory. The unit is the sub-tile [rows][64] of 16-bit elements,
// rows of 128 bytes, whose 16-byte chunks are permuted within every 8 rows ("128-byte
// swizzle") so that the copy engine, the tensor cores and ldmatrix/stmatrix meet no bank
// conflicts. Wider rows are sub-tiles one after another. A sub-tile starts at a multiple of
// 1024 bytes.
//
// One image serves both directions of a product:
//   contraction along the columns ("row operand"): Q and K in S = K Q^T, P in O = V^T P
//   contraction along the rows ("column operand"): V in O = P V and in O^T = V^T P^T
namespace loza::attention::cuda {

inline constexpr int kSubTileCols = 64;
inline constexpr int kRowBytes = 128;
inline constexpr int kChunkBytes = 16;
inline constexpr int kSwizzleRows = 8;
inline constexpr int kSubTileAlign = kSwizzleRows * kRowBytes;

// Byte offset in a sub-tile of 16-byte chunk `chunk` (0..7) of row `row`.
LOZA_HOST_DEVICE constexpr int chunk_offset(int row, int chunk) {
  return row * kRowBytes + ((chunk ^ (row % kSwizzleRows)) * kChunkBytes);
}

// What wgmma takes for an operand in shared memory: 64 bits, of which only the lower 32 differ
// between operands.
struct Descriptor {
  std::uint32_t low;

  // The operand `bytes` further on.
  __device__ __forceinline__ constexpr Descriptor operator+(int bytes) const {
    return {low + static_cast<std::uint32_t>(bytes >> 4)};
  }
  // The distance between groups of 8 rows / 16 from bit 32, and 1 from 62 for the 128-byte swizzle.
  __device__ __forceinline__ constexpr std::uint64_t bits() const {
    return std::uint64_t{low} | std::uint64_t{kSubTileAlign >> 4} << 32 | std::uint64_t{1} << 62;
  }
};

// `address`, the same in all lanes of the warp, is in the shared window and a multiple of 1024; a
// column operand of more than 64 columns also says how many bytes on its next sub-tile lies. Bits:
// address / 16 from 0, that distance / 16 from 16.
//
// The products take descriptors from uniform registers. The shuffle tells the compiler that this
// one is uniform, so that it also computes those of the operands further on there: else each
// product is preceded by up to eleven instructions that bring its descriptors over.
__device__ __forceinline__ Descriptor sub_tile_descriptor(std::uint32_t address,
                                                          int next_sub_tile = 16) {
  const std::uint32_t low =
      (address & 0x3FFFF) >> 4 | static_cast<std::uint32_t>(next_sub_tile >> 4) << 16;
  return {__shfl_sync(0xFFFFFFFF, low, 0)};
}

// One wgmma contracts 16 elements; the next 16 lie this many bytes on.
inline constexpr int kRowOperandStep = 16 * 2;
inline constexpr int kColumnOperandStep = 16 * kRowBytes;
inline constexpr int kStepsPerSubTile = kSubTileCols / 16;

}  // namespace loza::attention::cuda
