#pragma once

#include "loza/attention/cuda/sm90/prefill_consumer.cuh"
#include "loza/attention/cuda/sm90/prefill_producer.cuh"
#include "loza/attention/cuda/sm90/prefill_shape.cuh"

// Prefill: attention of many queries over contiguous keys, in tiles of 128 queries and 128 keys.
//
// Query tiles are aligned to absolute positions, not to the call: then all rows of a tile see
// the same key tiles, only its own is partly hidden, and however a prompt is cut into calls,
// every row meets the same tiles in the same order and gets the same bits.
//
// Blocks are persistent. A producer thread copies queries, keys and values into shared memory
// as room appears, across tiles; two consumer warpgroups take 64 queries each through all key
// tiles, with scores, P and output in registers.
namespace loza::attention::cuda {

template <typename Shape>
__device__ __forceinline__ void init_barriers(PrefillShared<Shape>& shared) {
  for (int consumer = 0; consumer < Shape::kConsumers; ++consumer) {
    ptx::init_barrier(&shared.q_full[consumer], 1);
    ptx::init_barrier(&shared.q_empty[consumer], Shape::kWarps);
  }
  for (int stage = 0; stage < Shape::kStages; ++stage) {
    ptx::init_barrier(&shared.k_full[stage], 1);
    ptx::init_barrier(&shared.v_full[stage], 1);
    ptx::init_barrier(&shared.k_empty[stage], Shape::kConsumerWarps);
    ptx::init_barrier(&shared.v_empty[stage], Shape::kConsumerWarps);
  }
  ptx::fence_barrier_init();
}

template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    prefill(const __grid_constant__ PrefillArgs args) {
  extern __shared__ __align__(kSubTileAlign) std::uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<PrefillShared<Shape>*>(shared_bytes);
  static_assert(sizeof(PrefillShared<Shape>) <= Shape::kSharedLimit,
                "a block's shared memory on Hopper is 227 KB");

  // The same for all lanes of a warp, and so that the compiler sees it.
  const int warpgroup = __shfl_sync(0xFFFFFFFF, threadIdx.x / Shape::kWarpgroup, 0);
  const int thread = threadIdx.x % Shape::kWarpgroup;
  if (threadIdx.x == 0) {
    ptx::prefetch(&args.q_map);
    ptx::prefetch(&args.k_map);
    ptx::prefetch(&args.v_map);
    init_barriers(shared);
  }
  __syncthreads();

  if (warpgroup == Shape::kConsumers) {
    ptx::shrink_registers<40>();
    if (thread != 0) return;
    PrefillProducer<Shape> producer{args, shared};
    producer.produce_all();
  } else {
    ptx::grow_registers<232>();
    PrefillConsumer<Shape> consumer{args, shared, {warpgroup, thread, thread / 32, thread % 32}};
    // The first turn is the first consumer's, given by the other.
    if (warpgroup == 1) ptx::arrive_at(kTurn0, 2 * Shape::kWarpgroup);
    TileWalk walk(args);
    for (PrefillTile tile; walk.take(tile);) {
      consumer.attend(tile);
      consumer.store(tile);
    }
    if (warpgroup == 0) ptx::sync(kTurn0, 2 * Shape::kWarpgroup);
  }
}

}  // namespace loza::attention::cuda
