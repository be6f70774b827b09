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

// What wgmma takes for an operand in shared memory.
struct Descriptor {
  std::uint64_t bits;

  // The operand `bytes` further on.
  LOZA_HOST_DEVICE constexpr Descriptor operator+(int bytes) const {
    return {bits + static_cast<std::uint64_t>(bytes >> 4)};
  }
};

// `address` is in the shared window and a multiple of 1024; a column operand of more than 64
// columns also says how many bytes on its next sub-tile lies. Bits: address / 16 from 0, that
// distance / 16 from 16, the distance between groups of 8 rows / 16 from 32, and 1 from 62 for
// the 128-byte swizzle.
LOZA_HOST_DEVICE constexpr Descriptor sub_tile_descriptor(std::uint32_t address,
                                                          int next_sub_tile = 16) {
  return {std::uint64_t{(address & 0x3FFFF) >> 4} |
          static_cast<std::uint64_t>(next_sub_tile >> 4) << 16 |
          std::uint64_t{kSubTileAlign >> 4} << 32 | std::uint64_t{1} << 62};
}

// One wgmma contracts 16 elements; the next 16 lie this many bytes on.
inline constexpr int kRowOperandStep = 16 * 2;
inline constexpr int kColumnOperandStep = 16 * kRowBytes;
inline constexpr int kStepsPerSubTile = kSubTileCols / 16;

}  // namespace loza::attention::cuda
