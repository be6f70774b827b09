#pragma once

#include "loza/attention/cuda/sm90/partial_merge.cuh"
#include "loza/attention/cuda/sm90/rows_consumer.cuh"
#include "loza/attention/cuda/sm90/rows_end.cuh"
#include "loza/attention/cuda/sm90/swap_producer.cuh"

// Paged decode for many query rows: 64 of them are the rows of the matrix product, S = Q K^T and
// O = P V. The output does not fit into the registers of one warpgroup, so two share it, each
// with half of the output elements; they take turns at the scores of pages and lend each other P.
// Pages, plan and masks are the swap kernel's; the merges are its own (rows_end.cuh).
namespace loza::attention::cuda {

template <typename Shape>
__device__ __forceinline__ void init_barriers(RowsShared<Shape>& shared) {
  for (int stage = 0; stage < Shape::kStages; ++stage) {
    for (int part = 0; part < Shape::kParts; ++part) {
      ptx::init_barrier(&shared.full[0][stage][part], 1);
      ptx::init_barrier(&shared.full[1][stage][part], 1);
      ptx::init_barrier(&shared.empty[stage][part],
                        Shape::num_readers(part) * (Shape::kWarpgroup / 32));
    }
  }
  ptx::init_barrier(&shared.stats_received, 1);
  for (std::uint64_t& barrier : shared.tile_received) ptx::init_barrier(&barrier, 1);
  ptx::fence_barrier_init();
}

// Requests a page's parts, each when there is room, and moves on.
template <typename Shape>
__device__ __forceinline__ void request_page(const DecodeArgs& args, RowsShared<Shape>& shared,
                                             int key_head, StageCursor& at, int page) {
  constexpr int kBytes = Shape::kTilesPerKeyPart * Shape::kSubTileBytes;
#pragma unroll
  for (int part = 0; part < Shape::kKeyParts; ++part) {
    ptx::wait(&shared.empty[at.stage][part], at.use % 2 ^ 1);
    std::uint64_t* full = &shared.full[at.use % 2][at.stage][part];
    ptx::arrive_expecting(full, kBytes);
    ptx::load_box(shared.pages[at.stage] + part * kBytes, &args.k_map, full, 0, 0,
                  part * Shape::kTilesPerKeyPart, key_head, page, ptx::kEvictFirst);
  }
  if (++at.stage == Shape::kStages) at = {0, at.use + 1};
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

  RowsQueries<Shape> queries(args, item, threadIdx.x);
  queries.prefetch(args, threadIdx.x);
  ptx::wait_for_previous_kernel();
  ptx::allow_next_kernel();
  const int length = static_cast<int>(args.lengths[item.sequence]);
  queries.load(args);
  const SwapWork work = find_work(args, item, length);
  if (item.cluster >= work.num_clusters) return;
  store_windows<Shape>(args, shared, item, work.length, threadIdx.x);
  int begin = 0, end = num_pages_by_sink_query(args, work);
  if (end == 0) {
    queries.store(shared);
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
  // Both consumers are done with the pages and the queries.
  sync_consumers();
  RowsEnd<Shape>(consumer, shared, item, work).run();
}

}  // namespace loza::attention::cuda
