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

  // Whether a consumer's product with a page's values reads part `part` of it: some of the values
  // that make its half of the output, or P.
  static constexpr bool reads_part(int consumer, int part) {
    constexpr int kTiles = kVTiles / kConsumers;
    const int begin = part * kTilesPerKeyPart, end = begin + kTilesPerKeyPart;
    return (begin < (consumer + 1) * kTiles && end > consumer * kTiles) ||
           (begin <= kPTile && kPTile < end);
  }
  static constexpr int num_readers(int part) { return reads_part(0, part) + reads_part(1, part); }

  // Of a cluster. See rows_end.cuh: what other blocks send must have room.
  static constexpr int kMostReceived = 8;  // sub-tiles
  static constexpr int kMostBlocks = 8;
  static constexpr bool merges_cluster(int blocks) {
    const int most_tiles = (kVTiles + blocks - 1) / blocks;
    return blocks <= kMostBlocks && most_tiles * (blocks - 1) <= kMostReceived;
  }

  static constexpr int kSharedLimit = 232448;
  static_assert(kVTiles <= kPTile, "P must not overwrite values");
};

// Where a page lies in the ring, and how often its stage was used before.
struct StageCursor {
  int stage, use;
};

// What the end of an item takes, in the place of the pages: see rows_end.cuh.
template <typename Shape>
struct RowsEndArea {
  static constexpr int kTileGroups = kSubTileCols / 8;  // of 8 columns, a fragment's

  // Sub-tiles of other blocks; of each group, four elements a thread.
  float4 received[Shape::kMostReceived][kTileGroups][Shape::kWarpgroup];
  std::uint8_t staged[2][Shape::kQSubTileBytes];

  // Where own sub-tile i is put into rows, from the end on: a block that has more than two receives
  // less.
  __device__ __forceinline__ std::uint8_t* staged_tile(int i) {
    return reinterpret_cast<std::uint8_t*>(this + 1) - (i + 1) * Shape::kQSubTileBytes;
  }
};

template <typename Shape>
struct RowsShared {
  using Cursor = StageCursor;

  union {
    alignas(kSubTileAlign) std::uint8_t pages[Shape::kStages][Shape::kPageBytes];
    RowsEndArea<Shape> end;
  };
  union {
    alignas(kSubTileAlign) std::uint8_t q[Shape::kQkTiles][Shape::kQSubTileBytes];
    float2 received_stats[Shape::kMostBlocks][Shape::kRows];
  };

  std::uint64_t full[2][Shape::kStages][Shape::kParts];  // used in turn, as SwapShared's
  std::uint64_t empty[Shape::kStages][Shape::kParts];
  std::uint64_t stats_received;                     // of the cluster's other blocks
  std::uint64_t tile_received[Shape::kVTiles / 2];  // likewise, for each own sub-tile
  float page_max[Shape::kStages][Shape::kRows];     // the reference after the page
  float sum[Shape::kConsumers][Shape::kRows];
  float max[Shape::kRows];
  int row_pos[Shape::kRows];     // position of the row's query
  int row_recent[Shape::kRows];  // where its recent keys begin
};

// Beside BarrierId's: P of the page in a stage is there.
enum RowsBarrierId { kPReady0 = kAllConsumers + 1, kPReady1 };

}  // namespace loza::attention::cuda
