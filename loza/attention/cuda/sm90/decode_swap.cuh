#pragma once

#include "loza/attention/cuda/sm90/swap_consumer.cuh"
#include "loza/attention/cuda/sm90/swap_merge.cuh"
#include "loza/attention/cuda/sm90/swap_producer.cuh"
#include "loza/attention/cuda/sm90/swap_shape.cuh"

// Paged decode with the operands swapped: S^T = K Q^T and O^T = V^T P^T, so that the 64 keys
// of a page are the rows of the matrix product and the few query rows its columns. Eight
// heads then cost eight columns, not 64 padded rows.
//
// A thread block has two consumer warpgroups and a producer warp. The producer copies pages
// into a ring; consumer w takes pages w, w+2, ... of the block's share and carries
// each from scores to output alone, so the consumers meet only at the end. Then
//
//   the consumers of a block merge their results, each one half of the V output elements;
//   the blocks of a cluster send each other slices of theirs, and each merges its slice;
//   if an item has several clusters, each block leaves its slice in the workspace, and the
//   last to do so merges that slice in cluster order.
//
// Masks: only pages at the edge of some query's window are tested. Keys past the length are
// also cleared in V, because 0 * NaN is NaN.
namespace loza::attention::cuda {

template <typename Shape>
__device__ __forceinline__ void init_barriers(SwapShared<Shape>& shared) {
  for (int slot = 0; slot < Shape::kSlots; ++slot) {
    ptx::init_barrier(&shared.full[0][slot], 1);
    ptx::init_barrier(&shared.full[1][slot], 1);
    ptx::init_barrier(&shared.empty[slot], 4);  // the warps of the consumer that has the page
  }
  ptx::init_barrier(&shared.stats_received, 1);
  ptx::init_barrier(&shared.out_received, 1);
  ptx::fence_barrier_init();
}

template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    decode_swap(const __grid_constant__ DecodeArgs args) {
  extern __shared__ __align__(kSubTileAlign) std::uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<SwapShared<Shape>*>(shared_bytes);
  static_assert(sizeof(SwapShared<Shape>) <= Shape::kSharedLimit,
                "a block's shared memory on Hopper is 227 KB");

  const int warpgroup = threadIdx.x / Shape::kWarpgroup;
  const SwapItem item = find_item(args);
  const Slice slice = slice_of<Shape>(args.by_stride.divisor, item.rank);
  if (threadIdx.x == 0) {
    ptx::prefetch(&args.k_map);
    if constexpr (!Shape::kValueInKey) ptx::prefetch(&args.v_map);
    init_barriers(shared);
    expect_slices(shared, item, slice);
  }
  __syncthreads();

  const int thread = threadIdx.x % Shape::kWarpgroup;
  if (warpgroup == Shape::kConsumers) {
    if constexpr (Shape::kRows > 16) ptx::shrink_registers<40>();
    if (thread < 32) {
      produce_pages<Shape>(args, shared, item, thread);
      // Only now: its early requests would delay these.
      ptx::allow_next_kernel();
    }
    return;
  }
  if constexpr (Shape::kRows > 16) ptx::grow_registers<232>();
  const ConsumerThread self = {warpgroup, thread, thread / 32, thread % 32};

  // All that the length and the queries are not needed for is found before the wait.
  Queries<Shape> queries(args, item, threadIdx.x);
  queries.prefetch(args);
  ptx::wait_for_previous_kernel();
  const int length = static_cast<int>(args.lengths[item.sequence]);
  queries.load(args);
  const SwapWork work = find_work(args, item, length);
  if (item.cluster >= work.num_clusters) return;
  if (args.q_len > 1) store_windows<Shape>(args, shared, item, work.length, threadIdx.x);
  int end = num_pages_by_sink_query(args, work);
  if (end == 0) {
    queries.store(shared);
    end = work.pages.size;
  } else {
    store_sink_queries<Shape>(args, shared, item, work.length, threadIdx.x);
  }
  ptx::fence_async_proxy();
  sync_consumers();

  SwapState<Shape> state;
  PageCursor<Shape> at(self.consumer);
  // The cluster hears early that the merge area is free, where the last pages leave it free.
  const bool early = merges_early<Shape>(work) && item.cluster_size > 1;
  const auto tell_early = [&] {
    if (early) ptx::cluster_arrive();
  };
  if (at.i >= work.pages.size) tell_early();
  while (true) {
    consume_pages(state, at, end, args, shared, work, self, tell_early);
    if (end == work.pages.size) break;
    // Past the sink: the other queries, once neither consumer needs the sink's.
    sync_consumers();
    copy_queries<Shape>(args, shared, item, threadIdx.x, [&](int) { return queries_of(args); });
    ptx::fence_async_proxy();
    sync_consumers();
    end = work.pages.size;
  }
  share_stats(state, shared, self);
  // Both consumers are done with the pages and the queries.
  sync_consumers();
  MergeArea<Shape>& area = merge_area(shared, work, work.pages.size);
  if (early) {
    ptx::cluster_wait();
    send_stats(shared, item, threadIdx.x);
  } else if (item.cluster_size > 1) {
    ptx::cluster_arrive();
  }
  merge_consumers(state, shared, area, work, self);
  if (item.cluster_size > 1) {
    if (!early) {
      ptx::cluster_wait();
      send_stats(shared, item, threadIdx.x);
    }
    SentVectors<Shape>(args.by_stride, threadIdx.x).send(shared, area, item, work, slice.stride);
    ptx::wait(&shared.stats_received, 0);
  }
  finish_blocks(args, shared, area, item, work, slice, threadIdx.x, [&] {
    if (item.cluster_size > 1) ptx::wait(&shared.out_received, 0);
  });
}

}  // namespace loza::attention::cuda
