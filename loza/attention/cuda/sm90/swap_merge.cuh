#pragma once

#include "loza/attention/cuda/sm90/swap_consumer.cuh"
#include "loza/attention/cuda/sm90/swap_shape.cuh"

// How partial results of the swap kernel become one: the consumers of a block, the blocks of a
// cluster, the clusters of an item.
namespace loza::attention::cuda {

// ---- the end of a block: the consumers' results merged, in shared memory ----

// The consumer that merges output elements [64t, 64t + 64).
template <typename Shape>
__device__ __forceinline__ constexpr int owner_of(int t) {
  return t < (Shape::kVTiles + 1) / 2 ? 0 : 1;
}

// Where the thread's fragment of tile t, column c, key half `half`, lies in the block's output.
template <typename Shape>
__device__ __forceinline__ float& block_out(SwapShared<Shape>& shared, const ConsumerThread& self,
                                            int t, int c, int half) {
  return shared.block_out[self.row(c)][kSubTileCols * t + self.key(half)];
}

// Applies visit(place in shared memory, register) to the thread's elements of the tiles that
// consumer `owner` merges.
template <typename Shape, typename Visit>
__device__ __forceinline__ void visit_outs(SwapState<Shape>& state, SwapShared<Shape>& shared,
                                           const ConsumerThread& self, int owner,
                                           const Visit& visit) {
#pragma unroll
  for (int t = 0; t < Shape::kVTiles; ++t) {
    if (owner_of<Shape>(t) != owner) continue;
#pragma unroll
    for (int c = 0; c < Shape::kRows / 4; ++c) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        visit(block_out(shared, self, t, c, half), state.out[t][fragment_index(c, half)]);
      }
    }
  }
}

template <typename Shape>
__device__ __forceinline__ void share_stats(const SwapState<Shape>& state,
                                            SwapShared<Shape>& shared, const ConsumerThread& self) {
#pragma unroll
  for (int c = 0; c < Shape::kRows / 4; ++c) {
    float sum = state.sum[c];
#pragma unroll
    for (int lanes = 4; lanes < 32; lanes *= 2) sum += __shfl_xor_sync(0xFFFFFFFF, sum, lanes);
    if (self.lane < 4) {
      shared.warp_sum[self.consumer][self.warp][self.row(c)] = sum;
      if (self.warp == 0) shared.consumer_max[self.consumer][self.row(c)] = state.max[c];
    }
  }
}

// Relative to the larger maximum of the two consumers.
template <typename Shape>
__device__ __forceinline__ void rescale_to_block(SwapState<Shape>& state,
                                                 const SwapShared<Shape>& shared,
                                                 const ConsumerThread& self) {
#pragma unroll
  for (int c = 0; c < Shape::kRows / 4; ++c) {
    const float other = shared.consumer_max[1 - self.consumer][self.row(c)];
    const float scale = ptx::exp2(state.max[c] - fmaxf(state.max[c], other));
#pragma unroll
    for (int t = 0; t < Shape::kVTiles; ++t) {
      state.out[t][fragment_index(c, 0)] *= scale;
      state.out[t][fragment_index(c, 1)] *= scale;
    }
  }
}

// Of a row: (max, sum) over both consumers.
template <typename Shape>
__device__ __forceinline__ float2 block_stats(const SwapShared<Shape>& shared, int row) {
  const float most = fmaxf(shared.consumer_max[0][row], shared.consumer_max[1][row]);
  float sum = 0;
#pragma unroll
  for (int consumer = 0; consumer < Shape::kConsumers; ++consumer) {
    float part = 0;
#pragma unroll
    for (int warp = 0; warp < 4; ++warp) part += shared.warp_sum[consumer][warp][row];
    sum += ptx::exp2(shared.consumer_max[consumer][row] - most) * part;
  }
  return {most, sum};
}

// Leaves the block's output in block_out. On the way tells the cluster that the place of its
// pages and queries is free.
template <typename Shape>
__device__ __forceinline__ void merge_consumers(SwapState<Shape>& state, SwapShared<Shape>& shared,
                                                const SwapItem& item, const SwapWork& work,
                                                const ConsumerThread& self) {
  const auto put = [](float& place, float value) { place = value; };
  const auto add = [](float& place, float value) { place += value; };
  share_stats(state, shared, self);
  // Both consumers are done with the pages and the queries.
  sync_consumers();
  if (item.cluster_size > 1) ptx::cluster_arrive();
  if (work.num_consumers == 1) {
    if (self.consumer == 0) {
      visit_outs(state, shared, self, 0, put);
      visit_outs(state, shared, self, 1, put);
    }
  } else {
    rescale_to_block(state, shared, self);
    visit_outs(state, shared, self, 1 - self.consumer, put);
    sync_consumers();
    visit_outs(state, shared, self, self.consumer, add);
  }
  sync_consumers();
}

// Rows are dealt to them in the merges below.
inline constexpr int kConsumerWarps = kConsumerThreads / 32;

// The part of the V output elements that a block of the cluster merges: all blocks the same
// number of vectors of 4, the last ones less or none.
struct Slice {
  int stride, begin, size;  // elements; stride is the size of a full slice
};

template <typename Shape>
__device__ __forceinline__ Slice slice_of(int cluster_size, int rank) {
  const int stride = (Shape::kVSize / 4 + cluster_size - 1) / cluster_size * 4;
  const int begin = min(rank * stride, Shape::kVSize);
  return {stride, begin, min(stride, Shape::kVSize - begin)};
}

// Sends every block of the cluster this block's stats and its slice of the output; the block's own
// slice stays.
template <typename Shape>
__device__ __forceinline__ void send_slices(SwapShared<Shape>& shared, const SwapItem& item,
                                            const Slice& own, int thread) {
  constexpr int kRowVectors = Shape::kVSize / 4;
  const int warp = thread / 32, lane = thread % 32;
  if (thread == 0) {
    ptx::arrive_expecting(&shared.stats_received,
                          item.num_rows * item.cluster_size * static_cast<int>(sizeof(float2)));
    ptx::arrive_expecting(&shared.out_received,
                          item.num_rows * (item.cluster_size - 1) * own.size * 4);
  }
  for (int row = warp; row < item.num_rows; row += kConsumerWarps) {
    if (lane < item.cluster_size) {
      ptx::send(ptx::peer_address(&shared.merge.received_stats[item.rank][row], lane),
                ptx::peer_address(&shared.stats_received, lane), block_stats(shared, row));
    }
  }
  const Divisor by_stride(own.stride);
#pragma unroll 4
  for (int i = thread; i < item.num_rows * kRowVectors; i += kConsumerThreads) {
    const int row = i / kRowVectors, column = 4 * (i % kRowVectors);
    const int rank = by_stride.divide(column);
    if (rank == item.rank) continue;
    const float* place = shared.received_out + (item.rank * Shape::kRows + row) * own.stride +
                         column - rank * own.stride;
    ptx::send(ptx::peer_address(place, rank), ptx::peer_address(&shared.out_received, rank),
              *reinterpret_cast<const float4*>(&shared.block_out[row][column]));
  }
}

// ---- the merge of blocks and of clusters ----

// Over groups of kLanes neighbouring lanes.
template <int kLanes>
__device__ __forceinline__ float group_max(float value) {
#pragma unroll
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFF, value, lanes));
  }
  return value;
}

template <int kLanes>
__device__ __forceinline__ float group_sum(float value) {
#pragma unroll
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(0xFFFFFFFF, value, lanes);
  }
  return value;
}

// The merge of partial softmaxes, once for the blocks of a cluster and once for the clusters
// of an item. A Source gives stats(partial, row) and out<kWidth>(partial, row, column) of
// num_partials, at most kMostPartials, whose outputs are divided by their sums if
// kIsNormalized.
//
// This half leaves the weights, such that the weighted sum of outputs is the merged output,
// divided by the merged sum, and calls done(row, merged stats). A row without keys has sum 0
// and weights 0.
template <int kRows, typename Source, typename Done>
__device__ __forceinline__ void merge_stats(MergeScratch<kRows>& scratch, const Source& source,
                                            int num_rows, int thread, const Done& done) {
  // A row takes as many lanes as it may have partials: a warp merges several rows at once.
  constexpr int kLanes = Source::kMostPartials < 32 ? Source::kMostPartials : 32;
  static_assert((kLanes & (kLanes - 1)) == 0, "lanes are grouped by their low bits");
  constexpr int kPerLane = (Source::kMostPartials + kLanes - 1) / kLanes;
  constexpr int kRowsAtOnce = kConsumerThreads / kLanes;
  const int lane = thread % kLanes;
  for (int first_row = 0; first_row < num_rows; first_row += kRowsAtOnce) {
    const int row = first_row + thread / kLanes;
    const bool has_row = row < num_rows;
    float2 stats[kPerLane];
    float most = kNoMax;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int partial = kLanes * i + lane;
      stats[i] = {kNoMax, 0};
      if (has_row && partial < source.num_partials) stats[i] = source.stats(partial, row);
      most = fmaxf(most, stats[i].x);
    }
    most = group_max<kLanes>(most);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) sum += ptx::exp2(stats[i].x - most) * stats[i].y;
    sum = group_sum<kLanes>(sum);
    const float inverse = sum > 0 ? __fdividef(1, sum) : 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int partial = kLanes * i + lane;
      const float own = ptx::exp2(stats[i].x - most) * (Source::kIsNormalized ? stats[i].y : 1);
      if (has_row && partial < source.num_partials) scratch.weights[partial][row] = own * inverse;
    }
    if (has_row && lane == 0) done(row, float2{most, sum});
  }
  sync_consumers();
}

template <int kWidth>
struct Floats {
  float values[kWidth];
};

template <int kWidth>
__device__ __forceinline__ Floats<kWidth> load_floats(const float* place) {
  if constexpr (kWidth == 4) {
    const float4 vector = *reinterpret_cast<const float4*>(place);
    return {vector.x, vector.y, vector.z, vector.w};
  } else if constexpr (kWidth == 2) {
    const float2 vector = *reinterpret_cast<const float2*>(place);
    return {vector.x, vector.y};
  } else {
    return {*place};
  }
}

// The other half: store(row, column, output) for every kWidth elements of rows of num_cols.
// Partials are added in order.
template <int kWidth, int kRows, typename Source, typename Store>
__device__ __forceinline__ void merge_outs(const MergeScratch<kRows>& scratch, const Source& source,
                                           int num_rows, int num_cols, int thread,
                                           const Store& store) {
  constexpr int kItems = Source::kItemsInFlight, kInFlight = Source::kInFlight;
  constexpr int kRound = kWidth * kConsumerThreads;
  const Divisor by_cols(max(num_cols, 2));
  const int size = num_rows * num_cols;
  for (int first = kWidth * thread; first < size; first += kItems * kRound) {
    int rows[kItems], columns[kItems];
    Floats<kWidth> sums[kItems] = {};
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      // Past the end, the last again: loads without a condition overlap.
      const int i = min(first + item * kRound, size - kWidth);
      rows[item] = by_cols.divide(i);
      columns[item] = i - rows[item] * num_cols;
    }
    // Loads of a batch of partials overlap; an unrolled loop would take what is left of a batch,
    // which is most or all of it, one load after the other.
    for (int batch = 0; batch < source.num_partials; batch += kInFlight) {
      Floats<kWidth> outs[kInFlight][kItems] = {};
      float weights[kInFlight][kItems] = {};
#pragma unroll
      for (int p = 0; p < kInFlight; ++p) {
        if (batch + p >= source.num_partials) continue;
#pragma unroll
        for (int item = 0; item < kItems; ++item) {
          outs[p][item] = source.template out<kWidth>(batch + p, rows[item], columns[item]);
          weights[p][item] = scratch.weights[batch + p][rows[item]];
        }
      }
#pragma unroll
      for (int p = 0; p < kInFlight; ++p) {
        if (batch + p >= source.num_partials) continue;
#pragma unroll
        for (int item = 0; item < kItems; ++item) {
#pragma unroll
          for (int e = 0; e < kWidth; ++e) {
            sums[item].values[e] += weights[p][item] * outs[p][item].values[e];
          }
        }
      }
    }
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      if (first + item * kRound < size) store(rows[item], columns[item], sums[item]);
    }
  }
}

// As wide as leaves no thread without work.
template <int kRows, typename Source, typename Store>
__device__ __forceinline__ void merge_outs(const MergeScratch<kRows>& scratch, const Source& source,
                                           int num_rows, int num_cols, int thread,
                                           const Store& store) {
  const int size = num_rows * num_cols;
  if (size <= kConsumerThreads) {
    merge_outs<1>(scratch, source, num_rows, num_cols, thread, store);
  } else if (size <= 2 * kConsumerThreads) {
    merge_outs<2>(scratch, source, num_rows, num_cols, thread, store);
  } else {
    merge_outs<4>(scratch, source, num_rows, num_cols, thread, store);
  }
}

// The results of this block alone, in shared memory.
template <typename Shape>
struct OwnResult {
  static constexpr int kMostPartials = 1, kInFlight = 1, kItemsInFlight = 4;
  static constexpr bool kIsNormalized = false;
  static constexpr int num_partials = 1;

  const SwapShared<Shape>& shared;

  __device__ __forceinline__ float2 stats(int, int row) const { return block_stats(shared, row); }
  template <int kWidth>
  __device__ __forceinline__ Floats<kWidth> out(int, int row, int column) const {
    return load_floats<kWidth>(&shared.block_out[row][column]);
  }
};

// This block's slice of the results of the cluster's blocks, in shared memory: received, and its
// own where the consumers left it.
template <typename Shape>
struct BlockPartials {
  static constexpr int kMostPartials = kMostBlocks, kInFlight = 8, kItemsInFlight = 1;
  static constexpr bool kIsNormalized = false;

  const SwapShared<Shape>& shared;
  int num_partials, rank, slice_stride, slice_begin;

  __device__ __forceinline__ float2 stats(int partial, int row) const {
    return shared.merge.received_stats[partial][row];
  }
  template <int kWidth>
  __device__ __forceinline__ Floats<kWidth> out(int partial, int row, int column) const {
    const float* received =
        shared.received_out + (partial * Shape::kRows + row) * slice_stride + column;
    const float* own = &shared.block_out[row][slice_begin + column];
    return load_floats<kWidth>(partial == rank ? own : received);
  }
};

// This block's slice of the results of the item's clusters, in the workspace.
template <typename Shape>
struct ClusterPartials {
  static constexpr int kMostPartials = kMostClusters, kInFlight = 16, kItemsInFlight = 1;
  static constexpr bool kIsNormalized = true;

  float2* all_stats;  // [clusters, kRows], of this block alone
  float* all_out;     // [clusters, kRows, V], from the slice's first element
  int num_partials;

  __device__ __forceinline__ ClusterPartials(const DecodeArgs& args, const SwapItem& item,
                                             const Slice& slice, int num_partials)
      : num_partials(num_partials) {
    const std::int64_t block =
        static_cast<std::int64_t>(item.index) * item.cluster_size + item.rank;
    const std::int64_t first_row =
        static_cast<std::int64_t>(item.index) * args.num_clusters * Shape::kRows;
    all_stats = args.partial_stats + block * args.num_clusters * Shape::kRows;
    all_out = args.partial_out + first_row * Shape::kVSize + slice.begin;
  }
  __device__ __forceinline__ float* out_place(int partial, int row, int column) const {
    return all_out + (partial * Shape::kRows + row) * Shape::kVSize + column;
  }
  __device__ __forceinline__ void put_stats(int partial, int row, float2 stats) const {
    all_stats[partial * Shape::kRows + row] = stats;
  }
  template <int kWidth>
  __device__ __forceinline__ void put_out(int partial, int row, int column,
                                          const Floats<kWidth>& out) const {
    float* place = out_place(partial, row, column);
    if constexpr (kWidth == 4) {
      *reinterpret_cast<float4*>(place) = {out.values[0], out.values[1], out.values[2],
                                           out.values[3]};
    } else {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) place[e] = out.values[e];
    }
  }
  // Other multiprocessors wrote them: past the L1.
  __device__ __forceinline__ float2 stats(int partial, int row) const {
    return __ldcg(all_stats + partial * Shape::kRows + row);
  }
  template <int kWidth>
  __device__ __forceinline__ Floats<kWidth> out(int partial, int row, int column) const {
    const float* place = out_place(partial, row, column);
    Floats<kWidth> result;
    if constexpr (kWidth == 4) {
      const float4 vector = __ldcg(reinterpret_cast<const float4*>(place));
      result = {vector.x, vector.y, vector.z, vector.w};
    } else {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) result.values[e] = __ldcg(place + e);
    }
    return result;
  }
};

// Where this block's slice of the result goes.
template <typename Shape>
struct ResultSlice {
  const DecodeArgs& args;
  const SwapItem& item;
  int first_column;

  __device__ __forceinline__ void put_lse(int row, float2 total) const {
    if (args.lse == nullptr || item.rank != 0) return;
    constexpr float kLn2 = 0.693147180559945f;
    const RowPlace place = place_of(args, item, row);
    args.lse[place.token * args.num_heads + place.head] =
        total.y > 0 ? (total.x + log2f(total.y)) * kLn2 : -INFINITY;
  }
  template <int kWidth>
  __device__ __forceinline__ void put_out(int row, int column, const Floats<kWidth>& out) const {
    using Element = typename Shape::Element;
    const RowPlace place = place_of(args, item, row);
    Element* to = static_cast<Element*>(args.out) + place.token * args.out_token_stride +
                  place.head * args.out_head_stride + first_column + column;
    if constexpr (kWidth == 4) {
      *reinterpret_cast<uint2*>(to) = {pack<Element>(out.values[0], out.values[1]),
                                       pack<Element>(out.values[2], out.values[3])};
    } else if constexpr (kWidth == 2) {
      *reinterpret_cast<std::uint32_t*>(to) = pack<Element>(out.values[0], out.values[1]);
    } else {
      *to = static_cast<Element>(out.values[0]);
    }
  }
};

// Whether this block's slice of all clusters with pages is in the workspace, and this block
// the last to have brought it.
__device__ __forceinline__ bool is_last_cluster(const DecodeArgs& args, const SwapItem& item,
                                                int num_clusters, int thread) {
  sync_consumers();
  bool is_last = false;
  if (thread == 0) {
    __threadfence();  // for all threads of the block, after the barrier
    // Counts up to num_clusters - 1 and back to 0, ready for the next launch.
    std::uint32_t* counter = args.counters + item.index * item.cluster_size + item.rank;
    const unsigned last = num_clusters - 1;
    is_last = atomicInc(counter, last) == last;
    __threadfence();
  }
  return ptx::sync_any(kAllConsumers, kConsumerThreads, is_last);
}

// Merges the block's slice of `source`, in shared memory, to the result, or by way of the
// workspace if the item has several clusters.
template <typename Shape, typename Source, typename AwaitOuts>
__device__ __forceinline__ void finish(const DecodeArgs& args, MergeScratch<Shape::kRows>& scratch,
                                       const SwapItem& item, const SwapWork& work,
                                       const Slice& slice, int thread, const Source& source,
                                       const AwaitOuts& await_outs) {
  const ResultSlice<Shape> result = {args, item, slice.begin};
  const auto put_lse = [&](int row, float2 total) { result.put_lse(row, total); };
  const auto put_out = [&](int row, int column, const auto& out) {
    result.put_out(row, column, out);
  };

  if (work.num_clusters == 1) {
    merge_stats(scratch, source, item.num_rows, thread, put_lse);
    await_outs();
    merge_outs(scratch, source, item.num_rows, slice.size, thread, put_out);
    return;
  }
  const ClusterPartials<Shape> clusters(args, item, slice, work.num_clusters);
  merge_stats(scratch, source, item.num_rows, thread,
              [&](int row, float2 total) { clusters.put_stats(item.cluster, row, total); });
  await_outs();
  merge_outs(scratch, source, item.num_rows, slice.size, thread,
             [&](int row, int column, const auto& out) {
               clusters.put_out(item.cluster, row, column, out);
             });
  if (!is_last_cluster(args, item, work.num_clusters, thread)) return;
  merge_stats(scratch, clusters, item.num_rows, thread, put_lse);
  merge_outs(scratch, clusters, item.num_rows, slice.size, thread, put_out);
}

}  // namespace loza::attention::cuda
