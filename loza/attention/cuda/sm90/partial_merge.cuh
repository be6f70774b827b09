#pragma once

#include "loza/attention/cuda/sm90/swap_consumer.cuh"
#include "loza/attention/cuda/sm90/swap_shape.cuh"

// How the partial softmaxes of the swap kernel's clusters become one, by way of the workspace; and
// for both kernels, where results go and which cluster is the last.
namespace loza::attention::cuda {

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

// The merge of partial softmaxes. A Source gives stats(partial, row) and
// out<kWidth>(partial, row, column) of num_partials, at most kMostPartials, whose outputs are
// divided by their sums.
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
      const float own = ptx::exp2(stats[i].x - most) * stats[i].y;
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

// This block's slice of the results of the item's clusters, in the workspace.
template <typename Shape>
struct ClusterPartials {
  static constexpr int kMostPartials = kMostClusters, kInFlight = 16, kItemsInFlight = 1;

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

// The last block to bring this slice merges those of all clusters to the result.
template <typename Shape>
__device__ __forceinline__ void finish_clusters(const DecodeArgs& args,
                                                MergeWeights<Shape::kRows>& weights,
                                                const SwapItem& item,
                                                const ClusterPartials<Shape>& clusters, int size,
                                                int thread, const ResultSlice<Shape>& result) {
  if (!is_last_cluster(args, item, clusters.num_partials, thread)) return;
  merge_outs(
      weights, clusters, item.num_rows, size, thread,
      [&](int row, int column, const auto& out) { result.put_out(row, column, out); },
      [&] {
        merge_stats(weights, clusters, item.num_rows, thread,
                    [&](int row, float2 total) { result.put_lse(row, total); });
      });
}

}  // namespace loza::attention::cuda
