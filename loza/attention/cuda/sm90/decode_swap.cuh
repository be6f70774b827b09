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
// into a ring of stages; consumer w takes pages w, w+2, ... of the block's share and carries
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
  for (int stage = 0; stage < Shape::kStages; ++stage) {
    for (int part = 0; part < Shape::kParts; ++part) {
      ptx::init_barrier(&shared.full[0][stage][part], 1);
      ptx::init_barrier(&shared.full[1][stage][part], 1);
    }
    ptx::init_barrier(&shared.empty[stage], 4);  // the warps of the consumer that has the page
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
  if (threadIdx.x == 0) {
    ptx::prefetch(&args.k_map);
    if constexpr (!Shape::kValueInKey) ptx::prefetch(&args.v_map);
    init_barriers(shared);
  }
  __syncthreads();

  const SwapItem item = find_item(args);
  const int thread = threadIdx.x % Shape::kWarpgroup;
  if (warpgroup == Shape::kConsumers) {
    if constexpr (Shape::kRows > 16) ptx::shrink_registers<40>();
    if (thread < 32) produce_pages<Shape>(args, shared, item, thread);
    return;
  }
  if constexpr (Shape::kRows > 16) ptx::grow_registers<232>();
  const ConsumerThread self = {warpgroup, thread, thread / 32, thread % 32};

  ptx::wait_for_previous_kernel();
  ptx::allow_next_kernel();
  const Queries<Shape> queries(args, item, threadIdx.x);
  const SwapWork work = find_work(args, item);
  if (item.cluster >= work.num_clusters) return;
  store_windows<Shape>(args, shared, item, work.length, threadIdx.x);
  int end = num_pages_by_sink_query(args, work);
  if (end == 0) {
    queries.store(shared, threadIdx.x);
    end = work.pages.size;
  } else {
    store_sink_queries<Shape>(args, shared, item, work.length, threadIdx.x);
  }
  ptx::fence_async_proxy();
  sync_consumers();

  SwapState<Shape> state;
  PageCursor at(self.consumer);
  while (true) {
    consume_pages(state, at, end, args, shared, work, self);
    if (end == work.pages.size) break;
    // Past the sink: the other queries, once neither consumer needs the sink's.
    sync_consumers();
    copy_queries<Shape>(args, shared, item, threadIdx.x, [&](int) { return queries_of(args); });
    ptx::fence_async_proxy();
    sync_consumers();
    end = work.pages.size;
  }
  merge_consumers(state, shared, item, work, self);
  const Slice slice = slice_of<Shape>(item.cluster_size, item.rank);
  if (item.cluster_size == 1) {
    const OwnResult<Shape> own = {shared};
    finish<Shape>(args, shared.merge, item, work, slice, threadIdx.x, own, [] {});
    return;
  }
  // The blocks of the cluster have made room for each other's results.
  ptx::cluster_wait();
  send_slices(shared, item, slice, threadIdx.x);
  const BlockPartials<Shape> blocks = {shared, item.cluster_size, item.rank, slice.stride,
                                       slice.begin};
  ptx::wait(&shared.stats_received, 0);
  finish<Shape>(args, shared.merge, item, work, slice, threadIdx.x, blocks,
                [&] { ptx::wait(&shared.out_received, 0); });
}

}  // namespace loza::attention::cuda
