#pragma once

#include "loza/attention/cuda/sm90/partial_merge.cuh"
#include "loza/attention/cuda/sm90/swap_consumer.cuh"
#include "loza/attention/cuda/sm90/swap_shape.cuh"

// How partial results of the swap kernel become one: those of a block's consumers, then those of a
// cluster's blocks. What clusters leave is merged in partial_merge.cuh.
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

// Merges the block's slice to the result, or by way of the workspace if the item has several
// clusters.
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
  if (alone) return;
  finish_clusters(args, shared.weights, item, clusters, slice.size, thread, result);
}

}  // namespace loza::attention::cuda
