#pragma once

#include "loza/attention/cuda/sm90/swap_shape.cuh"

// What a block of the rows kernel is made of. Its share of the work is found as the swap kernel's.
namespace loza::attention::cuda {

// 64 query rows of MLA's latent form: keys of 576 elements whose first 512 are the value.
template <typename Element_>
struct RowsShape {
  using Element = Element_;
  static constexpr int kRows = 64, kQkSize = 576, kVSize = 512;
  static constexpr bool kValueInKey = true;

  static constexpr int kConsumers = 2;
  static constexpr int kWarpgroup = 128;
  static_assert(kConsumers * kWarpgroup == kConsumerThreads);
  static constexpr int kThreads = kConsumerThreads + kWarpgroup;

  static constexpr int kQkTiles = kQkSize / kSubTileCols;
  static constexpr int kVTiles = kVSize / kSubTileCols;
  static constexpr int kFirstVTile = 0;
  static constexpr int kSubTileBytes = kPageLen * kRowBytes;
  static constexpr int kPageBytes = kQkTiles * kSubTileBytes;
  static constexpr int kQSubTileBytes = kRows * kRowBytes;

  static constexpr int kKeyParts = 3;
  static constexpr int kTilesPerKeyPart = kQkTiles / kKeyParts;
  static constexpr int kParts = kKeyParts;
  static constexpr int kPTile = kQkTiles - 1;  // as in the swap kernel
  static constexpr int kStages = 2;

  static constexpr int kColumns = kVSize / kConsumers;  // output elements that a consumer holds

  // Slices of all blocks of a cluster lie where the pages were.
  static constexpr int kMostCluster = 8;
  static constexpr int kSlicePadding = 8;  // floats a row, against bank conflicts
  // Slices are whole vectors of 4, so that those of all blocks may exceed the row.
  static constexpr int kReceivedFloats = kRows * (kVSize + kMostCluster * (kSlicePadding + 4));

  static constexpr int kSharedLimit = 232448;
  static_assert(kVTiles <= kPTile, "P must not overwrite values");
};

// Where a page lies in the ring, and how often its stage was used before.
struct StageCursor {
  int stage, use;
};

// What the end of an item with at most two blocks takes: see rows_end.cuh.
template <typename Shape>
struct RowsEndArea {
  static constexpr int kTiles = Shape::kVTiles / Shape::kConsumers;
  static constexpr int kVectors = Shape::kColumns / 8;

  float4 received[kVectors][Shape::kWarpgroup];  // from the other block
  float2 stats[Shape::kRows];                    // likewise
  alignas(kChunkBytes) std::uint8_t staged[Shape::kConsumers][kTiles][Shape::kQSubTileBytes];
};

template <typename Shape>
struct RowsShared {
  using Cursor = StageCursor;

  union {
    alignas(kSubTileAlign) std::uint8_t pages[Shape::kStages][Shape::kPageBytes];
    float received_out[Shape::kReceivedFloats];  // [blocks, kRows, slice + padding]
    RowsEndArea<Shape> end;
  };
  union {
    alignas(kSubTileAlign) std::uint8_t q[Shape::kQkTiles][Shape::kQSubTileBytes];
    MergeScratch<Shape::kRows> merge;
  };

  std::uint64_t full[2][Shape::kStages][Shape::kParts];  // used in turn, as SwapShared's
  std::uint64_t empty[Shape::kStages];
  std::uint64_t stats_received, out_received;    // of all blocks of the cluster
  float page_max[Shape::kStages][Shape::kRows];  // the reference after the page
  float sum[Shape::kConsumers][Shape::kRows];
  float max[Shape::kRows];
  int row_pos[Shape::kRows];     // position of the row's query
  int row_recent[Shape::kRows];  // where its recent keys begin
};

// Beside BarrierId's: P of the page in a stage is there.
enum RowsBarrierId { kPReady0 = kAllConsumers + 1, kPReady1 };

}  // namespace loza::attention::cuda
