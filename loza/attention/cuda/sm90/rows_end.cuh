#pragma once

#include "loza/attention/cuda/sm90/partial_merge.cuh"
#include "loza/attention/cuda/sm90/rows_consumer.cuh"

// The end of a block. The output's sub-tiles of 64 columns are dealt to the blocks of its cluster:
// each sends every other what it holds of the other's, and merges its own. In each block the
// consumer that holds a sub-tile does so. If an item has several clusters, each block leaves its
// sub-tiles in the workspace, and the last to do so merges those of all clusters, in their order.
//
// What travels lies as the threads hold it, each for the same thread of the other block, in vectors
// of 4: no thread looks for its elements, no bank conflicts. Only the result, in the element type,
// is put into rows. A block receives 16 bytes a clock, which takes longer than the rest of the end;
// so a sub-tile is merged and stored while the next arrives.
namespace loza::attention::cuda {

// The block of a cluster of `blocks` that merges sub-tile `tile`, and its first.
template <typename Shape>
__device__ __forceinline__ int owner_of_tile(int tile, int blocks) {
  return tile * blocks / Shape::kVTiles;
}
template <typename Shape>
__device__ __forceinline__ int first_tile_of(int rank, int blocks) {
  return (rank * Shape::kVTiles + blocks - 1) / blocks;
}

// Of the thread's two rows, the upper and the lower.
struct RowsStats {
  float max[2], sum[2];
};

template <typename Shape>
struct RowsEnd {
  using Area = RowsEndArea<Shape>;
  static constexpr int kTiles = Shape::kVTiles / Shape::kConsumers;  // that a consumer holds

  RowsConsumer<Shape>& consumer;
  RowsShared<Shape>& shared;
  const SwapItem& item;
  const SwapWork& work;
  const ConsumerThread& self;
  const int first_tile, num_tiles;  // of this block's
  RowsStats own;

  __device__ __forceinline__ RowsEnd(RowsConsumer<Shape>& consumer, RowsShared<Shape>& shared,
                                     const SwapItem& item, const SwapWork& work)
      : consumer(consumer),
        shared(shared),
        item(item),
        work(work),
        self(consumer.self),
        first_tile(first_tile_of<Shape>(item.rank, item.cluster_size)),
        num_tiles(first_tile_of<Shape>(item.rank + 1, item.cluster_size) - first_tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = consumer.row(half);
      own.max[half] = consumer.max[half];
      own.sum[half] = shared.sum[0][row] + shared.sum[1][row];
    }
  }

  // Sub-tile `tile` of those that this consumer holds, among all.
  __device__ __forceinline__ int global_tile(int tile) const {
    return self.consumer * kTiles + tile;
  }
  __device__ __forceinline__ bool is_own(int tile) const {
    const int i = global_tile(tile) - first_tile;
    return i >= 0 && i < num_tiles;
  }

  // ---- what travels ----

  // REQUIRES: one thread of the block calls it.
  __device__ __forceinline__ void expect() const {
    const int others = item.cluster_size - 1;
    ptx::arrive_expecting(&shared.stats_received,
                          others * Shape::kRows * static_cast<int>(sizeof(float2)));
    for (int i = 0; i < num_tiles; ++i) {
      ptx::arrive_expecting(&shared.tile_received[i],
                            others * static_cast<int>(sizeof shared.end.received[0]));
    }
  }

  __device__ __forceinline__ void send_stats() const {
    if (self.consumer != 0 || self.lane % 4 != 0) return;
#pragma unroll 1
    for (int peer = 0; peer < item.cluster_size; ++peer) {
      if (peer == item.rank) continue;
      const std::uint32_t barrier = ptx::peer_address(&shared.stats_received, peer);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2* to = &shared.received_stats[item.rank][consumer.row(half)];
        ptx::send(ptx::peer_address(to, peer), barrier, float2{own.max[half], own.sum[half]});
      }
    }
  }

  __device__ __forceinline__ void send_tiles() const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      if (is_own(tile)) continue;
      const int owner = owner_of_tile<Shape>(global_tile(tile), item.cluster_size);
      const int i = global_tile(tile) - first_tile_of<Shape>(owner, item.cluster_size);
      const int sender = item.rank < owner ? item.rank : item.rank - 1;
      const std::uint32_t barrier = ptx::peer_address(&shared.tile_received[i], owner);
      const std::uint32_t to = ptx::peer_address(
          &shared.end.received[i * (item.cluster_size - 1) + sender][0][self.thread], owner);
#pragma unroll
      for (int group = 0; group < Area::kTileGroups; ++group) {
        ptx::send(to + group * static_cast<int>(sizeof shared.end.received[0][0]), barrier,
                  consumer.out_of(tile, group));
      }
    }
  }

  // ---- the merge of a cluster ----

  static __device__ __forceinline__ void add(RowsStats& total, int half, float2 other) {
    const float most = fmaxf(total.max[half], other.x);
    total.sum[half] =
        ptx::exp2(total.max[half] - most) * total.sum[half] + ptx::exp2(other.x - most) * other.y;
    total.max[half] = most;
  }
  static __device__ __forceinline__ void invert(const RowsStats& total, float (&inverse)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      inverse[half] = total.sum[half] > 0 ? __fdividef(1, total.sum[half]) : 0;
    }
  }

  __device__ __forceinline__ RowsStats total_of_blocks() const {
    RowsStats total = own;
#pragma unroll 1
    for (int peer = 0; peer < item.cluster_size; ++peer) {
      if (peer == item.rank) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        add(total, half, shared.received_stats[peer][consumer.row(half)]);
      }
    }
    return total;
  }

  // The cluster's sum of an own sub-tile in place of the consumer's part. `inverse` are those of
  // the total sums.
  __device__ __forceinline__ void merge_blocks(int tile, const RowsStats& total,
                                               const float (&inverse)[2]) {
    float factors[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      factors[half] = ptx::exp2(own.max[half] - total.max[half]) * inverse[half];
    }
    consumer.scale_tile(tile, factors);
    if (item.cluster_size == 1) return;
    const int i = global_tile(tile) - first_tile, others = item.cluster_size - 1;
    ptx::wait(&shared.tile_received[i], 0);
#pragma unroll 1
    for (int sender = 0; sender < others; ++sender) {
      const int peer = sender < item.rank ? sender : sender + 1;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float other = shared.received_stats[peer][consumer.row(half)].x;
        factors[half] = ptx::exp2(other - total.max[half]) * inverse[half];
      }
      const auto& received = shared.end.received[i * others + sender];
#pragma unroll
      for (int group = 0; group < Area::kTileGroups; ++group) {
        consumer.add_to(tile, group, factors, received[group][self.thread]);
      }
    }
  }

  // ---- the merge of clusters ----

  // This block's copy of the stats of clusters.
  __device__ __forceinline__ float2* cluster_stats(int cluster) const {
    const DecodeArgs& args = consumer.args;
    const std::int64_t block =
        static_cast<std::int64_t>(item.index) * item.cluster_size + item.rank;
    return args.partial_stats + (block * args.num_clusters + cluster) * Shape::kRows;
  }
  // The thread's part of a sub-tile of a cluster, group by group.
  __device__ __forceinline__ float4* cluster_tile(int cluster, int tile) const {
    const DecodeArgs& args = consumer.args;
    const std::int64_t of_item = static_cast<std::int64_t>(item.index) * args.num_clusters;
    const std::int64_t place = (of_item + cluster) * Shape::kVTiles + global_tile(tile);
    return reinterpret_cast<float4*>(args.partial_out) +
           place * (Area::kTileGroups * Shape::kWarpgroup) + self.thread;
  }

  __device__ __forceinline__ void leave_stats(const RowsStats& total) const {
    if (self.consumer != 0 || self.lane % 4 != 0) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      cluster_stats(item.cluster)[consumer.row(half)] = {total.max[half], total.sum[half]};
    }
  }
  __device__ __forceinline__ void leave_tile(int tile) const {
    float4* const place = cluster_tile(item.cluster, tile);
#pragma unroll
    for (int group = 0; group < Area::kTileGroups; ++group) {
      place[group * Shape::kWarpgroup] = consumer.out_of(tile, group);
    }
  }

  // Other multiprocessors wrote them: past the L1.
  __device__ __forceinline__ float2 load_stats(int cluster, int half) const {
    return __ldcg(cluster_stats(cluster) + consumer.row(half));
  }

  __device__ __forceinline__ RowsStats total_of_clusters() const {
    RowsStats total = {{kNoMax, kNoMax}, {0, 0}};
#pragma unroll 4
    for (int cluster = 0; cluster < work.num_clusters; ++cluster) {
#pragma unroll
      for (int half = 0; half < 2; ++half) add(total, half, load_stats(cluster, half));
    }
    return total;
  }

  // The item's sum of an own sub-tile in place of the consumer's part. What clusters left is
  // divided by their sums.
  __device__ __forceinline__ void merge_clusters(int tile, const RowsStats& total,
                                                 const float (&inverse)[2]) {
    float factors[2] = {0, 0};
    consumer.scale_tile(tile, factors);
#pragma unroll 2
    for (int cluster = 0; cluster < work.num_clusters; ++cluster) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 stats = load_stats(cluster, half);
        factors[half] = ptx::exp2(stats.x - total.max[half]) * stats.y * inverse[half];
      }
      const float4* const place = cluster_tile(cluster, tile);
      float4 parts[Area::kTileGroups];
#pragma unroll
      for (int group = 0; group < Area::kTileGroups; ++group) {
        parts[group] = __ldcg(place + group * Shape::kWarpgroup);
      }
#pragma unroll
      for (int group = 0; group < Area::kTileGroups; ++group) {
        consumer.add_to(tile, group, factors, parts[group]);
      }
    }
  }

  // ---- the result ----

  // The same chunk of a few rows of each sub-tile is a thread's to store.
  static constexpr int kTileChunks = kRowBytes / kChunkBytes;  // of a row
  static constexpr int kRowStep = Shape::kWarpgroup / kTileChunks;
  static constexpr int kStoredRows = Shape::kRows / kRowStep;
  static_assert(kRowStep % kSwizzleRows == 0, "so that chunks keep their place in a row");

  // Elements of args.out, in the first sub-tile that the consumer holds; negative past the last
  // row.
  __device__ __forceinline__ void find_places(std::int64_t (&places)[kStoredRows]) const {
    const DecodeArgs& args = consumer.args;
#pragma unroll
    for (int r = 0; r < kStoredRows; ++r) {
      const int row = self.thread / kTileChunks + r * kRowStep;
      const RowPlace place = place_of(args, item, row);
      places[r] = row < item.num_rows
                      ? place.token * args.out_token_stride + place.head * args.out_head_stride +
                            self.consumer * Shape::kColumns + 8 * (self.thread % kTileChunks)
                      : -1;
      ptx::compute_now(places[r]);
    }
  }

  __device__ __forceinline__ void store_tile(int tile,
                                             const std::int64_t (&places)[kStoredRows]) const {
    using Element = typename Shape::Element;
    std::uint8_t* const staged = shared.end.staged_tile(global_tile(tile) - first_tile);
    const int staged_row = 16 * self.warp + self.lane % 16;
#pragma unroll
    for (int group = 0; group < Area::kTileGroups; group += 2) {
      const float4 left = consumer.out_of(tile, group), right = consumer.out_of(tile, group + 1);
      ptx::store_matrices(
          ptx::shared_address(staged) + chunk_offset(staged_row, group + self.lane / 16),
          {pack<Element>(left.x, left.y), pack<Element>(left.z, left.w),
           pack<Element>(right.x, right.y), pack<Element>(right.z, right.w)});
    }
    ptx::sync(self.barrier(), Shape::kWarpgroup);
    auto* const elements = static_cast<Element*>(consumer.args.out);
    const std::uint8_t* from =
        staged + chunk_offset(self.thread / kTileChunks, self.thread % kTileChunks);
#pragma unroll
    for (int r = 0; r < kStoredRows; ++r) {
      if (places[r] < 0) continue;
      *reinterpret_cast<uint4*>(elements + places[r] + kSubTileCols * tile) =
          *reinterpret_cast<const uint4*>(from + r * kRowStep * kRowBytes);
    }
  }

  __device__ __forceinline__ void put_lse(const RowsStats& total) const {
    if (self.consumer != 0 || self.lane % 4 != 0) return;
    const ResultSlice<Shape> result = {consumer.args, item, 0};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = consumer.row(half);
      if (row < item.num_rows) result.put_lse(row, {total.max[half], total.sum[half]});
    }
  }

  // ---- all of it ----

  template <typename Visit>
  __device__ __forceinline__ void visit_own_tiles(const Visit& visit) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      if (is_own(tile)) visit(tile);
    }
  }

  // REQUIRES: share_stats and a barrier of the consumers precede it.
  __device__ __forceinline__ void run() {
    if (item.cluster_size > 1) {
      if (threadIdx.x == 0) expect();
      // Then all blocks are done with their pages and queries.
      ptx::cluster_arrive();
      ptx::cluster_wait();
      send_stats();
      send_tiles();
    }
    const bool has_tiles =
        first_tile < global_tile(kTiles) && first_tile + num_tiles > global_tile(0);
    const bool alone = work.num_clusters == 1;
    if (alone && !has_tiles) return;

    std::int64_t places[kStoredRows];
    find_places(places);
    if (item.cluster_size > 1) ptx::wait(&shared.stats_received, 0);
    RowsStats total = total_of_blocks();
    float inverse[2];
    invert(total, inverse);
    visit_own_tiles([&](int tile) {
      merge_blocks(tile, total, inverse);
      if (alone) {
        store_tile(tile, places);
      } else {
        leave_tile(tile);
      }
    });
    if (!alone) {
      leave_stats(total);
      if (!is_last_cluster(consumer.args, item, work.num_clusters, threadIdx.x)) return;
      total = total_of_clusters();
      invert(total, inverse);
      visit_own_tiles([&](int tile) {
        merge_clusters(tile, total, inverse);
        store_tile(tile, places);
      });
    }
    put_lse(total);
  }
};

}  // namespace loza::attention::cuda
