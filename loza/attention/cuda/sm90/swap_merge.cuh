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

// Applies visit(place in the block's output, register) to the thread's elements of the tiles that
// consumer `owner` merges.
template <typename Shape, typename Visit>
__device__ __forceinline__ void visit_outs(SwapState<Shape>& state, MergeArea<Shape>& area,
                                           const ConsumerThread& self, int owner,
                                           const Visit& visit) {
#pragma unroll
  for (int t = 0; t < Shape::kVTiles; ++t) {
    if (owner_of<Shape>(t) != owner) continue;
#pragma unroll
    for (int c = 0; c < Shape::kRows / 4; ++c) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        visit(area.block_out[self.row(c)][kSubTileCols * t + self.key(half)],
              state.out[t][fragment_index(c, half)]);
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

// Leaves the block's output in block_out.
template <typename Shape>
__device__ __forceinline__ void merge_consumers(SwapState<Shape>& state, SwapShared<Shape>& shared,
                                                MergeArea<Shape>& area, const SwapWork& work,
                                                const ConsumerThread& self) {
  const auto put = [](float& place, float value) { place = value; };
  const auto add = [](float& place, float value) { place += value; };
  if (work.num_consumers == 1) {
    if (self.consumer == 0) {
      visit_outs(state, area, self, 0, put);
      visit_outs(state, area, self, 1, put);
    }
  } else {
    rescale_to_block(state, shared, self);
    visit_outs(state, area, self, 1 - self.consumer, put);
    sync_consumers();
    visit_outs(state, area, self, self.consumer, add);
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
__device__ __forceinline__ Slice slice_of(int stride, int rank) {
  const int begin = min(rank * stride, Shape::kVSize);
  return {stride, begin, min(stride, Shape::kVSize - begin)};
}

// What the other blocks will send. REQUIRES: one thread calls it.
template <typename Shape>
__device__ __forceinline__ void expect_slices(SwapShared<Shape>& shared, const SwapItem& item,
                                              const Slice& own) {
  ptx::arrive_expecting(&shared.stats_received,
                        item.num_rows * item.cluster_size * static_cast<int>(sizeof(float2)));
  ptx::arrive_expecting(&shared.out_received, item.num_rows * item.cluster_size * own.size * 4);
}

// Sends every block of the cluster this block's stats.
template <typename Shape>
__device__ __forceinline__ void send_stats(SwapShared<Shape>& shared, const SwapItem& item,
                                           int thread) {
  const int warp = thread / 32, lane = thread % 32;
#pragma unroll 1
  for (int row = warp; row < item.num_rows; row += kConsumerWarps) {
    if (lane < item.cluster_size) {
      ptx::send(ptx::peer_address(&shared.received_stats[item.rank][row], lane),
                ptx::peer_address(&shared.stats_received, lane), block_stats(shared, row));
    }
  }
}

// The vectors of a block's output that a thread sends to one block of the cluster: the same columns
// of every kRowStep-th row.
template <typename Shape>
struct SentVectors {
  static constexpr int kRowVectors = Shape::kVSize / 4;
  static constexpr int kRowStep = kConsumerThreads / kRowVectors;

  int first_row, column, rank, slice_column;

  __device__ __forceinline__ SentVectors(const Divisor& by_stride, int thread)
      : first_row(thread / kRowVectors),
        column(4 * (thread % kRowVectors)),
        rank(by_stride.divide(column)),
        slice_column(column - rank * static_cast<int>(by_stride.divisor)) {}

  // Sends every block, this one too, its slice of `area`.
  __device__ __forceinline__ void send(SwapShared<Shape>& shared, const MergeArea<Shape>& area,
                                       const SwapItem& item, const SwapWork& work,
                                       int stride) const {
    const float* to = merge_area(shared, work, work.num_pages_of(item, rank)).received_out +
                      (item.rank * Shape::kRows + first_row) * stride + slice_column;
    std::uint32_t place = ptx::peer_address(to, rank);
    const std::uint32_t barrier = ptx::peer_address(&shared.out_received, rank);
    const float* from = &area.block_out[first_row][column];
#pragma unroll 4
    for (int row = first_row; row < item.num_rows; row += kRowStep) {
      ptx::send(place, barrier, *reinterpret_cast<const float4*>(from));
      place += kRowStep * stride * 4;
      from += kRowStep * Shape::kBlockOutCols;
    }
  }
};

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
__device__ __forceinline__ void merge_stats(MergeWeights<kRows>& all_weights, const Source& source,
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
      if (has_row && partial < source.num_partials) all_weights[partial][row] = own * inverse;
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
template <int kWidth, int kRows, typename Source, typename Store, typename AwaitWeights>
__device__ __forceinline__ void merge_outs(const MergeWeights<kRows>& all_weights,
                                           const Source& source, int num_rows, int num_cols,
                                           int thread, const Store& store,
                                           const AwaitWeights& await_weights) {
  constexpr int kItems = Source::kItemsInFlight, kInFlight = Source::kInFlight;
  constexpr int kRound = kWidth * kConsumerThreads;
  const Divisor by_cols(max(num_cols, 2));
  const int size = num_rows * num_cols;
  bool awaited = false;
  for (int round = 0; round < size; round += kItems * kRound) {
    const int first = round + kWidth * thread;
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
        }
      }
      if (!awaited) await_weights();
      awaited = true;
#pragma unroll
      for (int p = 0; p < kInFlight; ++p) {
        if (batch + p >= source.num_partials) continue;
#pragma unroll
        for (int item = 0; item < kItems; ++item) {
          weights[p][item] = all_weights[batch + p][rows[item]];
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
  if (!awaited) await_weights();
}

// As wide as leaves no thread without work.
template <int kRows, typename Source, typename Store, typename AwaitWeights>
__device__ __forceinline__ void merge_outs(const MergeWeights<kRows>& all_weights,
                                           const Source& source, int num_rows, int num_cols,
                                           int thread, const Store& store,
                                           const AwaitWeights& await_weights) {
  const int size = num_rows * num_cols;
  if (size <= kConsumerThreads) {
    merge_outs<1>(all_weights, source, num_rows, num_cols, thread, store, await_weights);
  } else if (size <= 2 * kConsumerThreads) {
    merge_outs<2>(all_weights, source, num_rows, num_cols, thread, store, await_weights);
  } else {
    merge_outs<4>(all_weights, source, num_rows, num_cols, thread, store, await_weights);
  }
}

// The rows that a warp merges at once: their loads overlap.
template <typename Shape>
inline constexpr int kRowsPerWarp = (Shape::kRows + kConsumerWarps - 1) / kConsumerWarps;

// The weights of the blocks of a cluster in rows w, w + 8, ... of warp w, such that the weighted
// sum of their outputs is the merged output, divided by the merged sum. A row without keys has
// weights 0.
template <int kBlocks, typename Shape>
struct BlockWeights {
  static constexpr int kRows = kRowsPerWarp<Shape>;

  float weights[kRows][kBlocks];
  float2 totals[kRows];

  __device__ __forceinline__ BlockWeights(const SwapShared<Shape>& shared, const SwapItem& item,
                                          int thread) {
    const int lane = thread % 32, partial = lane % kBlocks;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = min(thread / 32 + i * kConsumerWarps, item.num_rows - 1);
      const float2 stats =
          kBlocks == 1 ? block_stats(shared, row) : shared.received_stats[partial][row];
      const float most = group_max<kBlocks>(stats.x);
      const float share = ptx::exp2(stats.x - most);
      const float sum = group_sum<kBlocks>(share * stats.y);
      const float weight = sum > 0 ? __fdividef(share, sum) : 0;
      totals[i] = {most, sum};
#pragma unroll
      for (int p = 0; p < kBlocks; ++p) weights[i][p] = __shfl_sync(0xFFFFFFFF, weight, p);
    }
  }
};

// The merge of the results of a cluster's blocks, a slice of them. Stats and outputs are in shared
// memory. Calls await_outs() before it reads outputs, then put_out(row, column, output) and
// put_stats(row, merged stats).
template <int kBlocks, typename Shape, typename AwaitOuts, typename PutOut, typename PutStats>
__device__ __forceinline__ void merge_blocks(const SwapShared<Shape>& shared,
                                             const MergeArea<Shape>& area, const SwapItem& item,
                                             int thread, const AwaitOuts& await_outs,
                                             const PutOut& put_out, const PutStats& put_stats) {
  constexpr int kCols = Shape::kVSize / kBlocks;  // of the slice
  constexpr int kWidth = kCols >= 128 ? 4 : kCols >= 64 ? 2 : 1;
  constexpr int kPitch = kBlocks == 1 ? Shape::kBlockOutCols : kCols;
  const int first_row = thread / 32, first_column = thread % 32 * kWidth;
  const BlockWeights<kBlocks, Shape> merged(shared, item, thread);
  const float* outs =
      (kBlocks == 1 ? area.block_out[0] : area.received_out) + first_row * kPitch + first_column;
  await_outs();
#pragma unroll
  for (int i = 0; i < kRowsPerWarp<Shape>; ++i) {
    const int row = first_row + i * kConsumerWarps;
    if (row >= item.num_rows) break;
#pragma unroll
    for (int column = 0; column < kCols; column += 32 * kWidth) {
      if (kCols < 32 * kWidth && first_column >= kCols) break;
      Floats<kWidth> out = {};
#pragma unroll
      for (int p = 0; p < kBlocks; ++p) {
        const auto part =
            load_floats<kWidth>(outs + (p * Shape::kRows + i * kConsumerWarps) * kPitch + column);
#pragma unroll
        for (int e = 0; e < kWidth; ++e) out.values[e] += merged.weights[i][p] * part.values[e];
      }
      put_out(row, first_column + column, out);
    }
    if (first_column == 0) put_stats(row, merged.totals[i]);
  }
}

// The same of clusters of any other size.
template <typename Shape, typename AwaitOuts, typename PutOut, typename PutStats>
__device__ __forceinline__ void merge_any_blocks(const SwapShared<Shape>& shared,
                                                 const MergeArea<Shape>& area, const SwapItem& item,
                                                 const Slice& slice, int thread,
                                                 const AwaitOuts& await_outs, const PutOut& put_out,
                                                 const PutStats& put_stats) {
  constexpr int kWidth = 4;
  const int lane = thread % 32, partial = lane % kMostBlocks;
  await_outs();
#pragma unroll 1
  for (int row = thread / 32; row < item.num_rows; row += kConsumerWarps) {
    float2 stats = {kNoMax, 0};
    if (partial < item.cluster_size) stats = shared.received_stats[partial][row];
    const float most = group_max<kMostBlocks>(stats.x);
    const float share = ptx::exp2(stats.x - most);
    const float sum = group_sum<kMostBlocks>(share * stats.y);
    const float weight = sum > 0 ? __fdividef(share, sum) : 0;
#pragma unroll 1
    for (int first = 0; first < slice.size; first += 32 * kWidth) {
      const int column = min(first + lane * kWidth, slice.size - kWidth);
      Floats<kWidth> out = {};
#pragma unroll 1
      for (int p = 0; p < item.cluster_size; ++p) {
        const float own = __shfl_sync(0xFFFFFFFF, weight, p);
        const auto part = load_floats<kWidth>(area.received_out +
                                              (p * Shape::kRows + row) * slice.stride + column);
#pragma unroll
        for (int e = 0; e < kWidth; ++e) out.values[e] += own * part.values[e];
      }
      if (first + lane * kWidth < slice.size) put_out(row, column, out);
    }
    if (lane == 0) put_stats(row, float2{most, sum});
  }
}

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
    // Counts up to num_clusters - 1 and back to 0, ready for the next launch. Releases and acquires
    // for all threads of the block, which meet at barriers before and after.
    std::uint32_t* counter = args.counters + item.index * item.cluster_size + item.rank;
    const unsigned last = num_clusters - 1;
    is_last = ptx::count_up(counter, last) == last;
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
    merge_stats(scratch.weights, source, item.num_rows, thread, put_lse);
    await_outs();
    merge_outs(scratch.weights, source, item.num_rows, slice.size, thread, put_out, [] {});
    return;
  }
  const ClusterPartials<Shape> clusters(args, item, slice, work.num_clusters);
  merge_stats(scratch.weights, source, item.num_rows, thread,
              [&](int row, float2 total) { clusters.put_stats(item.cluster, row, total); });
  await_outs();
  merge_outs(
      scratch.weights, source, item.num_rows, slice.size, thread,
      [&](int row, int column, const auto& out) {
        clusters.put_out(item.cluster, row, column, out);
      },
      [] {});
  if (!is_last_cluster(args, item, work.num_clusters, thread)) return;
  merge_outs(scratch.weights, clusters, item.num_rows, slice.size, thread, put_out,
             [&] { merge_stats(scratch.weights, clusters, item.num_rows, thread, put_lse); });
}

// The same of the swap kernel's blocks.
template <typename Shape, typename AwaitOuts>
__device__ __forceinline__ void finish_blocks(const DecodeArgs& args, SwapShared<Shape>& shared,
                                              const MergeArea<Shape>& area, const SwapItem& item,
                                              const SwapWork& work, const Slice& slice, int thread,
                                              const AwaitOuts& await_outs) {
  const ResultSlice<Shape> result = {args, item, slice.begin};
  const ClusterPartials<Shape> clusters(args, item, slice, work.num_clusters);
  const bool alone = work.num_clusters == 1;
  const auto put_out = [&](int row, int column, const auto& out) {
    if (alone) {
      result.put_out(row, column, out);
    } else {
      clusters.put_out(item.cluster, row, column, out);
    }
  };
  const auto put_stats = [&](int row, float2 total) {
    if (alone) {
      result.put_lse(row, total);
    } else {
      clusters.put_stats(item.cluster, row, total);
    }
  };
  switch (item.cluster_size) {
    case 1:
      merge_blocks<1>(shared, area, item, thread, await_outs, put_out, put_stats);
      break;
    case 2:
      merge_blocks<2>(shared, area, item, thread, await_outs, put_out, put_stats);
      break;
    case 4:
      merge_blocks<4>(shared, area, item, thread, await_outs, put_out, put_stats);
      break;
    case 8:
      merge_blocks<8>(shared, area, item, thread, await_outs, put_out, put_stats);
      break;
    case 16:
      merge_blocks<16>(shared, area, item, thread, await_outs, put_out, put_stats);
      break;
    default:
      merge_any_blocks(shared, area, item, slice, thread, await_outs, put_out, put_stats);
  }
  if (alone || !is_last_cluster(args, item, work.num_clusters, thread)) return;
  merge_outs(
      shared.weights, clusters, item.num_rows, slice.size, thread,
      [&](int row, int column, const auto& out) { result.put_out(row, column, out); },
      [&] {
        merge_stats(shared.weights, clusters, item.num_rows, thread,
                    [&](int row, float2 total) { result.put_lse(row, total); });
      });
}

}  // namespace loza::attention::cuda
