#pragma once

#include "loza/attention/cuda/device/layout.cuh"
#include "loza/attention/cuda/device/ptx.cuh"
#include "loza/attention/cuda/device/wgmma.cuh"
#include "loza/attention/cuda/sm90/decode_args.h"

// What a block of the swap kernel is made of: sizes, shared memory, and its share of the work.
namespace loza::attention::cuda {

inline constexpr int kConsumerThreads = 256;

// A partial softmax of a row is (max, sum) and the output as summed: relative to max, not
// divided by sum. This takes the place of the queries at the end.
template <int kRows>
struct MergeScratch {
  float2 received_stats[kMostBlocks][kRows];
  float weights[kMostClusters][kRows];
};

// Sizes of one kernel. kRows columns of the products: query rows rounded up to 8.
template <typename Element_, int kRows_, int kQkSize_, int kVSize_, bool kValueInKey_>
struct SwapShape {
  using Element = Element_;
  static constexpr int kRows = kRows_, kQkSize = kQkSize_, kVSize = kVSize_;
  static constexpr bool kValueInKey = kValueInKey_;

  static constexpr int kConsumers = 2;
  static constexpr int kWarpgroup = 128;
  static_assert(kConsumers * kWarpgroup == kConsumerThreads);
  static constexpr int kThreads = kConsumerThreads + kWarpgroup;

  static constexpr int kQkTiles = kQkSize / kSubTileCols;
  static constexpr int kVTiles = kVSize / kSubTileCols;
  static constexpr int kPageTiles = kQkTiles + (kValueInKey ? 0 : kVTiles);
  static constexpr int kFirstVTile = kValueInKey ? 0 : kQkTiles;
  static constexpr int kSubTileBytes = kPageLen * kRowBytes;
  static constexpr int kPageBytes = kPageTiles * kSubTileBytes;
  static constexpr int kQSubTileBytes = kRows * kRowBytes;
  static constexpr int kQBytes = kQkTiles * kQSubTileBytes >
                                         static_cast<int>(sizeof(MergeScratch<kRows>))
                                     ? kQkTiles* kQSubTileBytes
                                     : static_cast<int>(sizeof(MergeScratch<kRows>));

  // Keys arrive in parts, each with its own barrier, so that the first product starts early.
  static constexpr int kKeyParts = kQkTiles % 3 == 0 ? 3 : 1;
  static constexpr int kTilesPerKeyPart = kQkTiles / kKeyParts;
  static constexpr int kParts = kKeyParts + (kValueInKey ? 0 : 1);

  // P of a page lies where its last key sub-tile was: scores are done with it by then, and no
  // value lies there.
  static constexpr int kPTile = kQkTiles - 1;

  static constexpr int kSharedLimit = 232448;
  static constexpr int kSmallShared = 2048;
  static constexpr int kMostStages = 6;
  static constexpr int kFittingStages = (kSharedLimit - kSmallShared - kQBytes) / kPageBytes;
  static constexpr int kStages = kFittingStages < kMostStages ? kFittingStages : kMostStages;

  // fp32 rows of a block's output: 4 mod 32 words long, so that neither the fragments' columns
  // nor the merge's rows meet bank conflicts.
  static constexpr int kBlockOutCols = kVSize + 4;
  // Slices are whole vectors of 4, so that those of all blocks may exceed the row.
  static constexpr int kReceivedCols = kVSize + 4 * kMostBlocks;

  static_assert(kRows % 8 == 0 && kRows <= 32, "the output of a page must fit in registers");
  static_assert(kQkSize % kSubTileCols == 0 && kVSize % kSubTileCols == 0,
                "rows are whole sub-tiles");
  static_assert(!kValueInKey || kVTiles <= kPTile, "P must not overwrite values");
  static_assert(kStages >= kConsumers, "each consumer holds one page");
};

template <typename Shape>
struct SwapShared {
  union {
    alignas(kSubTileAlign) std::uint8_t pages[Shape::kStages][Shape::kPageBytes];
    struct {
      float block_out[Shape::kRows][Shape::kBlockOutCols];
      float received_out[Shape::kRows * Shape::kReceivedCols];  // [blocks, kRows, slice]
    };
  };
  union {
    alignas(kSubTileAlign) std::uint8_t q[Shape::kQkTiles][Shape::kQSubTileBytes];
    MergeScratch<Shape::kRows> merge;
  };

  // Two for each stage, used in turn. With one, a consumer that comes for use n of a stage
  // before use n-1, the other consumer's, has arrived would take use n-2's completion for its
  // own: a barrier knows only the parity of its phase.
  std::uint64_t full[2][Shape::kStages][Shape::kParts];
  std::uint64_t empty[Shape::kStages];
  std::uint64_t stats_received, out_received;  // of all blocks of the cluster
  float warp_max[Shape::kConsumers][4][Shape::kRows];
  float warp_sum[Shape::kConsumers][4][Shape::kRows];
  float consumer_max[Shape::kConsumers][Shape::kRows];
  int row_pos[Shape::kRows];     // position of the row's query
  int row_recent[Shape::kRows];  // where its recent keys begin
};

// The named barriers of the block.
enum BarrierId { kConsumer0 = 1, kConsumer1, kAllConsumers };

__device__ __forceinline__ void sync_consumers() { ptx::sync<kAllConsumers, kConsumerThreads>(); }

// Division by multiplication, exact while number * divisor < 2^32. REQUIRES: divisor >= 2.
struct Divisor {
  unsigned inverse;

  __device__ __forceinline__ explicit Divisor(unsigned divisor)
      : inverse(0xFFFFFFFFu / divisor + 1) {}
  __device__ __forceinline__ int divide(unsigned number) const {
    return static_cast<int>(__umulhi(number, inverse));
  }
};

// Division by numbers that are mostly 1 and always small.
__device__ __forceinline__ unsigned divide(unsigned number, unsigned divisor) {
  return divisor == 1 ? number : number / divisor;
}

// Which item this block works on, and with whom.
struct SwapItem {
  int sequence, key_head, index;
  int first_row, num_rows;    // of the group's rows
  int cluster, cluster_size;  // which cluster of the item, and its blocks
  int rank;                   // of this block in its cluster
};

__device__ __forceinline__ SwapItem find_item(const DecodeArgs& args) {
  SwapItem item;
  item.rank = static_cast<int>(ptx::cluster_rank());
  item.cluster_size = static_cast<int>(ptx::cluster_size());
  const unsigned cluster = ptx::cluster_index();
  item.index = divide(cluster, args.num_clusters);
  item.cluster = cluster - item.index * args.num_clusters;
  const int head_index = divide(item.index, args.num_row_tiles);
  const int row_tile = item.index - head_index * args.num_row_tiles;
  item.sequence = divide(head_index, args.num_key_heads);
  item.key_head = head_index - item.sequence * args.num_key_heads;
  item.first_row = row_tile * args.rows_per_tile;
  item.num_rows = min(args.rows_per_tile, args.q_len * args.group_size - item.first_row);
  return item;
}

// What the block computes: a share of the item's visible pages.
struct SwapWork {
  int length;
  VisiblePages visible;
  Share pages;        // of visible
  int num_consumers;  // that have pages in some block of the item
  int num_clusters;   // that have pages; at least one, which stores the zeros of none
};

__device__ __forceinline__ SwapWork find_work(const DecodeArgs& args, const SwapItem& item) {
  SwapWork work;
  work.length = static_cast<int>(args.lengths[item.sequence]);
  work.visible = visible_pages(args.pattern, work.length, args.q_len);
  const int units = args.num_clusters * item.cluster_size;
  const int unit = item.cluster * item.cluster_size + item.rank;
  work.pages = share_of(work.visible.size, units, unit);
  work.num_consumers = work.visible.size > units ? 2 : 1;
  const int active_units = min(work.visible.size, units);
  work.num_clusters = max(1, (active_units + item.cluster_size - 1) / item.cluster_size);
  return work;
}

// A row of the group as token and head of the tensors.
struct RowPlace {
  std::int64_t token;
  int head;
};

__device__ __forceinline__ RowPlace place_of(const DecodeArgs& args, const SwapItem& item,
                                             int row) {
  const int group_row = item.first_row + row;
  const int token = args.q_len == 1 ? 0 : group_row / args.group_size;
  return {static_cast<std::int64_t>(item.sequence) * args.q_len + token,
          item.key_head * args.group_size + group_row - token * args.group_size};
}

}  // namespace loza::attention::cuda
