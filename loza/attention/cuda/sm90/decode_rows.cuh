#pragma once

#include "loza/attention/cuda/sm90/partial_merge.cuh"
#include "loza/attention/cuda/sm90/rows_consumer.cuh"
#include "loza/attention/cuda/sm90/rows_end.cuh"
#include "loza/attention/cuda/sm90/swap_producer.cuh"

// Paged decode for many query rows: 64 of them are the rows of the matrix product, S = Q K^T and
// O = P V. The output does not fit into the registers of one warpgroup, so two share it, each
// with half of the output elements; they take turns at the scores of pages and lend each other P.
// Pages, plan, masks and merges are the swap kernel's, but for items of one or two blocks
// (rows_end.cuh).
namespace loza::attention::cuda {

template <typename Shape>
__device__ __forceinline__ void init_barriers(RowsShared<Shape>& shared) {
  for (int stage = 0; stage < Shape::kStages; ++stage) {
    for (int part = 0; part < Shape::kParts; ++part) {
      ptx::init_barrier(&shared.full[0][stage][part], 1);
      ptx::init_barrier(&shared.full[1][stage][part], 1);
    }
    ptx::init_barrier(&shared.empty[stage], kConsumerThreads / 32);
  }
  ptx::init_barrier(&shared.stats_received, 1);
  ptx::init_barrier(&shared.out_received, 1);
  ptx::fence_barrier_init();
}

// Requests a page, when there is room, and moves on.
template <typename Shape>
__device__ __forceinline__ void request_page(const DecodeArgs& args, RowsShared<Shape>& shared,
                                             int key_head, StageCursor& at, int page) {
  constexpr int kBytes = Shape::kTilesPerKeyPart * Shape::kSubTileBytes;
  ptx::wait(&shared.empty[at.stage], at.use % 2 ^ 1);
#pragma unroll
  for (int part = 0; part < Shape::kKeyParts; ++part) {
    std::uint64_t* full = &shared.full[at.use % 2][at.stage][part];
    ptx::arrive_expecting(full, kBytes);
    ptx::load_box(shared.pages[at.stage] + part * kBytes, &args.k_map, full, 0, 0,
                  part * Shape::kTilesPerKeyPart, key_head, page, ptx::kEvictFirst);
  }
  if (++at.stage == Shape::kStages) at = {0, at.use + 1};
}

// This block's slice of the results of the cluster's blocks, in shared memory.
template <typename Shape>
struct RowsPartials {
  static constexpr int kMostPartials = Shape::kMostCluster, kInFlight = 2, kItemsInFlight = 4;
  static constexpr bool kIsNormalized = false;

  RowsShared<Shape>& shared;
  int num_partials, slice_stride;

  __device__ __forceinline__ float* place(int partial, int row, int column) const {
    return shared.received_out +
           (partial * Shape::kRows + row) * (slice_stride + Shape::kSlicePadding) + column;
  }
  __device__ __forceinline__ float2 stats(int partial, int row) const {
    return shared.merge.received_stats[partial][row];
  }
  template <int kWidth>
  __device__ __forceinline__ Floats<kWidth> out(int partial, int row, int column) const {
    return load_floats<kWidth>(place(partial, row, column));
  }
};

// Brings every block of the cluster its slice of this block's output, and the stats. Only what is
// another block's travels: the way between multiprocessors is narrow.
template <typename Shape>
__device__ __forceinline__ void deliver(const RowsConsumer<Shape>& consumer,
                                        RowsShared<Shape>& shared, const SwapItem& item,
                                        const Slice& own, const RowsPartials<Shape>& partials,
                                        int thread) {
  const auto stats_of = [&](int row) {
    return float2{shared.max[row], shared.sum[0][row] + shared.sum[1][row]};
  };
  if (item.cluster_size == 1) {
    if (thread < Shape::kRows) shared.merge.received_stats[0][thread] = stats_of(thread);
    consumer.visit_outs([&](int row, int column, const float4& value) {
      *reinterpret_cast<float4*>(partials.place(0, row, column)) = value;
    });
    sync_consumers();
    return;
  }
  if (thread == 0) {
    ptx::arrive_expecting(&shared.stats_received,
                          item.num_rows * item.cluster_size * static_cast<int>(sizeof(float2)));
    ptx::arrive_expecting(&shared.out_received,
                          item.num_rows * (item.cluster_size - 1) * own.size * 4);
  }
  for (int i = thread; i < item.num_rows * item.cluster_size; i += kConsumerThreads) {
    const int to = i % item.cluster_size, row = i / item.cluster_size;
    ptx::send(ptx::peer_address(&shared.merge.received_stats[item.rank][row], to),
              ptx::peer_address(&shared.stats_received, to), stats_of(row));
  }
  const Divisor by_stride(own.stride);
  consumer.visit_outs([&](int row, int column, const float4& value) {
    if (row >= item.num_rows) return;
    const int rank = by_stride.divide(column);
    float* place = partials.place(item.rank, row, column - rank * own.stride);
    if (rank == item.rank) {
      *reinterpret_cast<float4*>(place) = value;
    } else {
      ptx::send(ptx::peer_address(place, rank), ptx::peer_address(&shared.out_received, rank),
                value);
    }
  });
}

template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    decode_rows(const __grid_constant__ DecodeArgs args) {
  extern __shared__ __align__(kSubTileAlign) std::uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<RowsShared<Shape>*>(shared_bytes);
  static_assert(sizeof(RowsShared<Shape>) <= Shape::kSharedLimit,
                "a block's shared memory on Hopper is 227 KB");

  const int warpgroup = threadIdx.x / Shape::kWarpgroup;
  if (threadIdx.x == 0) {
    ptx::prefetch(&args.k_map);
    init_barriers(shared);
  }
  __syncthreads();

  const SwapItem item = find_item(args);
  const int thread = threadIdx.x % Shape::kWarpgroup;
  if (warpgroup == Shape::kConsumers) {
    ptx::shrink_registers<40>();
    if (thread < 32) produce_pages<Shape>(args, shared, item, thread);
    return;
  }
  ptx::grow_registers<232>();
  const ConsumerThread self = {warpgroup, thread, thread / 32, thread % 32};

  ptx::wait_for_previous_kernel();
  ptx::allow_next_kernel();
  const RowsQueries<Shape> queries(args, item, threadIdx.x);
  const SwapWork work = find_work(args, item);
  if (item.cluster >= work.num_clusters) return;
  store_windows<Shape>(args, shared, item, work.length, threadIdx.x);
  int begin = 0, end = num_pages_by_sink_query(args, work);
  if (end == 0) {
    queries.store(shared, threadIdx.x);
    end = work.pages.size;
  } else {
    store_sink_queries<Shape>(args, shared, item, work.length, threadIdx.x);
  }
  ptx::fence_async_proxy();
  sync_consumers();

  RowsConsumer<Shape> consumer(args, shared, work, self);
  while (true) {
    consumer.attend(begin, end);
    if (end == work.pages.size) break;
    // Past the sink: the other queries, once neither consumer needs the sink's.
    sync_consumers();
    copy_queries<Shape>(args, shared, item, threadIdx.x, [&](int) { return queries_of(args); });
    ptx::fence_async_proxy();
    sync_consumers();
    begin = end;
    end = work.pages.size;
  }

  consumer.share_stats();
  // Both consumers are done with the pages and the queries; then all blocks of the cluster are.
  sync_consumers();
  if (args.num_clusters == 1 && item.cluster_size <= 2) {
    end_pair(consumer, shared, item);
    return;
  }
  if (item.cluster_size > 1) {
    ptx::cluster_arrive();
    ptx::cluster_wait();
  }
  const Slice slice = slice_of<Shape>(args.by_stride.divisor, item.rank);
  const RowsPartials<Shape> blocks = {shared, item.cluster_size, slice.stride};
  deliver(consumer, shared, item, slice, blocks, threadIdx.x);
  if (item.cluster_size > 1) ptx::wait(&shared.stats_received, 0);
  finish<Shape>(args, shared.merge, item, work, slice, threadIdx.x, blocks, [&] {
    if (item.cluster_size > 1) ptx::wait(&shared.out_received, 0);
  });
}

}  // namespace loza::attention::cuda
