#pragma once

#include "loza/attention/cuda/sm90/swap_shape.cuh"

// The producer of the swap kernel, one warp: copies the visible pages into the ring of stages.
namespace loza::attention::cuda {

template <typename Shape, typename Shared>
__device__ __forceinline__ void request_page(const DecodeArgs& args, Shared& shared, int key_head,
                                             int stage, int use, int page) {
  std::uint8_t* destination = shared.pages[stage];
  auto& full = shared.full[use % 2][stage];
#pragma unroll
  for (int part = 0; part < Shape::kKeyParts; ++part) {
    constexpr int kBytes = Shape::kTilesPerKeyPart * Shape::kSubTileBytes;
    ptx::arrive_expecting(&full[part], kBytes);
    ptx::load_box(destination + part * kBytes, &args.k_map, &full[part], 0, 0,
                  part * Shape::kTilesPerKeyPart, key_head, page, ptx::kEvictFirst);
  }
  if constexpr (!Shape::kValueInKey) {
    constexpr int kBytes = Shape::kVTiles * Shape::kSubTileBytes;
    ptx::arrive_expecting(&full[Shape::kKeyParts], kBytes);
    ptx::load_box(destination + Shape::kFirstVTile * Shape::kSubTileBytes, &args.v_map,
                  &full[Shape::kKeyParts], 0, 0, 0, key_head, page, ptx::kEvictFirst);
  }
}

// The table's entry for visible page i of the sequence.
__device__ __forceinline__ int table_slot(const DecodeArgs& args, const SwapWork& work, int i) {
  const int page = work.visible.page(i);
  if (args.ring_pages == 0 || page < args.sink_pages) return page;
  return args.sink_pages + (page - args.sink_pages) % args.ring_pages;
}

// Lane i of the warp looks up page i of every 32; lane 0 requests them in turn. A table of a
// streaming module, at most 32 entries, is read whole while the length is still on its way.
template <typename Shape, typename Shared>
__device__ __forceinline__ void produce_pages(const DecodeArgs& args, Shared& shared,
                                              const SwapItem& item, int lane) {
  if (!args.stable_prefix) ptx::wait_for_previous_kernel();
  const std::int32_t* table = args.page_table + item.sequence * args.table_stride;
  const bool small_table = args.table_stride <= 32;
  int entry = 0;
  if (small_table && lane < args.table_stride) entry = table[lane];
  const SwapWork work = find_work(args, item);
  // The last pages hold the new tokens, which the previous kernel may be writing.
  const int num_stable =
      args.stable_prefix ? work.visible.size - num_new_pages(work.length, args.q_len) : 0;
  int stage = 0, use = 0;
  for (int base = 0; base < work.pages.size; base += 32) {
    const int slot =
        table_slot(args, work, work.pages.begin + min(base + lane, work.pages.size - 1));
    const int page = small_table ? __shfl_sync(0xFFFFFFFF, entry, slot) : table[slot];
    const int count = min(32, work.pages.size - base);
    for (int i = 0; i < count; ++i) {
      const int next_page = __shfl_sync(0xFFFFFFFF, page, i);
      if (lane == 0) {
        if (args.stable_prefix && work.pages.begin + base + i >= num_stable) {
          ptx::wait_for_previous_kernel();
        }
        ptx::wait(&shared.empty[stage], use % 2 ^ 1);
        request_page<Shape>(args, shared, item.key_head, stage, use, next_page);
      }
      if (++stage == Shape::kStages) {
        stage = 0;
        ++use;
      }
    }
  }
}

}  // namespace loza::attention::cuda
