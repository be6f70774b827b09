#pragma once

#include "loza/attention/cuda/device/layout.cuh"
#include "loza/attention/cuda/device/ptx.cuh"
#include "loza/attention/cuda/device/wgmma.cuh"
#include "loza/attention/cuda/sm90/decode_args.h"

// What a block of the swap kernel is made of: sizes, shared memory, and its share of the work.
namespace loza::attention::cuda {

inline constexpr int kConsumerThreads = 256;

// Of the partial results of each row in a merge.
template <int kRows>
using MergeWeights = float[kMostClusters][kRows];

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
                                         static_cast<int>(sizeof(MergeWeights<kRows>))
                                     ? kQkTiles* kQSubTileBytes
                                     : static_cast<int>(sizeof(MergeWeights<kRows>));

  // Pages arrive in parts of the same size, each with its own barrier, so that the first product
  // starts early; values that are not in the key are one.
  static constexpr int kKeyParts = kQkTiles % 3 == 0 ? 3 : 1;
  static constexpr int kTilesPerPart = kQkTiles / kKeyParts;
  static constexpr int kParts = kKeyParts + (kValueInKey ? 0 : 1);
  static constexpr int kPartBytes = kTilesPerPart * kSubTileBytes;
  static_assert(kParts * kPartBytes == kPageBytes);

  // P of a page lies where its last key sub-tile was: scores are done with it by then, and no
  // value lies there.
  static constexpr int kPTile = kQkTiles - 1;

  static constexpr int kSharedLimit = 232448;
  static constexpr int kSmallShared = 2048;
  // The ring is one of parts, so that what is left beside whole pages is used too: part p of the
  // share's page i lies in slot (i * kParts + p) % kSlots.
  static constexpr int kMostSlots = 6 * kParts;
  static constexpr int kFittingSlots = (kSharedLimit - kSmallShared - kQBytes) / kPartBytes;
  static constexpr int kSlots = kFittingSlots < kMostSlots ? kFittingSlots : kMostSlots;
  static constexpr int kWholePages = kSlots / kParts;

  // fp32 rows of a block's output: 4 mod 32 words long, so that neither the fragments' columns
  // nor the merge's rows meet bank conflicts.
  static constexpr int kBlockOutCols = kVSize + 4;
  // Slices are whole vectors of 4, so that those of all blocks may exceed the row.
  static constexpr int kReceivedCols = kVSize + 4 * kMostBlocks;

  // Where the results of consumers and of other blocks are merged: in the place of a page, that the
  // last pages leave free, if it holds them.
  static constexpr int kMergeBytes = kRows * (kBlockOutCols + kReceivedCols) * 4;
  static constexpr bool kMergeFitsPage = kMergeBytes <= kPageBytes;
  // Free with two pages in use.
  static constexpr bool kPageIsLeft = kSlots % kParts == 0 && kWholePages > kConsumers;

  static_assert(kRows % 8 == 0 && kRows <= 32, "the output of a page must fit in registers");
  static_assert(kQkSize % kSubTileCols == 0 && kVSize % kSubTileCols == 0,
                "rows are whole sub-tiles");
  static_assert(!kValueInKey || kVTiles <= kPTile, "P must not overwrite values");
  static_assert(kSlots >= kConsumers * kParts, "each consumer holds one page");
  static_assert(kMergeBytes <= kSlots * kPartBytes);
};

// Where the parts of a page lie in the ring, and how often their slots were used before.
template <typename Shape>
struct PartCursor {
  int slot, use;

  // `parts` further on, at most once around.
  __device__ __forceinline__ PartCursor operator+(int parts) const {
    const int next = slot + parts;
    return next >= Shape::kSlots ? PartCursor{next - Shape::kSlots, use + 1}
                                 : PartCursor{next, use};
  }
};

// Outputs on their way to the result.
template <typename Shape>
struct MergeArea {
  float block_out[Shape::kRows][Shape::kBlockOutCols];
  float received_out[Shape::kRows * Shape::kReceivedCols];  // [blocks, kRows, slice]
};

template <typename Shape>
struct SwapShared {
  using Cursor = PartCursor<Shape>;

  union {
    alignas(kSubTileAlign) std::uint8_t parts[Shape::kSlots][Shape::kPartBytes];
    MergeArea<Shape> area;  // see merge_area()
  };
  union {
    alignas(kSubTileAlign) std::uint8_t q[Shape::kQkTiles][Shape::kQSubTileBytes];
    MergeWeights<Shape::kRows> weights;
  };
  // Not in the place of the queries, which this block may still need when others are done.
  float2 received_stats[kMostBlocks][Shape::kRows];

  // Two for each slot, used in turn. With one, a consumer that comes for use n of a slot before
  // use n-1, the other consumer's, has arrived would take use n-2's completion for its own: a
  // barrier knows only the parity of its phase.
  std::uint64_t full[2][Shape::kSlots];
  std::uint64_t empty[Shape::kSlots];
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
  Share pages;                     // of visible
  int num_consumers;               // that have pages in some block of the item
  int num_clusters;                // that have pages; at least one, which stores the zeros of none
  int newest_recent;               // where the newest query's recent keys begin
  int least_pages, larger_shares;  // of the item's blocks

  // In the share of block `rank` of the cluster.
  __device__ __forceinline__ int num_pages_of(const SwapItem& item, int rank) const {
    return least_pages + (item.cluster * item.cluster_size + rank < larger_shares ? 1 : 0);
  }
};

__device__ __forceinline__ SwapWork find_work(const DecodeArgs& args, const SwapItem& item,
                                              int length) {
  SwapWork work;
  work.length = length;
  const auto block_of = [&](int pos) { return args.by_block.divide(pos); };
  work.visible = visible_pages(args.pattern, length, args.q_len, block_of);
  work.newest_recent = length > 0 ? args.pattern.recent_begin_of(block_of(length - 1)) : 0;
  const int units = args.by_units.divisor;
  const int unit = item.cluster * item.cluster_size + item.rank;
  work.least_pages = args.by_units.divide(work.visible.size);
  work.larger_shares = work.visible.size - work.least_pages * units;
  work.pages = {unit * work.least_pages + min(unit, work.larger_shares),
                work.least_pages + (unit < work.larger_shares ? 1 : 0)};
  work.num_consumers = work.visible.size > units ? 2 : 1;
  const int active_units = min(work.visible.size, units);
  work.num_clusters = max(1, args.by_cluster.divide(active_units + item.cluster_size - 1));
  return work;
}

__device__ __forceinline__ SwapWork find_work(const DecodeArgs& args, const SwapItem& item) {
  return find_work(args, item, static_cast<int>(args.lengths[item.sequence]));
}

// Whether the merge area is in the place of a page that the consumers' last pages leave free, in
// all blocks of the item.
template <typename Shape>
__device__ __forceinline__ bool merges_early(const SwapWork& work) {
  return Shape::kMergeFitsPage && (Shape::kPageIsLeft || work.num_consumers == 1);
}

// The merge area of a block whose share has `num_pages`: where the next page would lie.
template <typename Shape>
__device__ __forceinline__ MergeArea<Shape>& merge_area(SwapShared<Shape>& shared,
                                                        const SwapWork& work, int num_pages) {
  const int page = merges_early<Shape>(work) ? num_pages % Shape::kWholePages : 0;
  return *reinterpret_cast<MergeArea<Shape>*>(shared.parts[page * Shape::kParts]);
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
