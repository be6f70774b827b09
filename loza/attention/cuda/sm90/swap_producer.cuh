#pragma once

#include "loza/attention/cuda/sm90/swap_shape.cuh"

// The producer of the swap kernel, one warp: copies the visible pages into the ring.
namespace loza::attention::cuda {

// Requests a page's parts, each when there is room, and moves on.
template <typename Shape>
__device__ __forceinline__ void request_page(const DecodeArgs& args, SwapShared<Shape>& shared,
                                             int key_head, PartCursor<Shape>& at, int page) {
#pragma unroll
  for (int part = 0; part < Shape::kParts; ++part) {
    ptx::wait(&shared.empty[at.slot], at.use % 2 ^ 1);
    std::uint64_t* full = &shared.full[at.use % 2][at.slot];
    const bool is_key = part < Shape::kKeyParts;
    ptx::arrive_expecting(full, Shape::kPartBytes);
    ptx::load_box(shared.parts[at.slot], is_key ? &args.k_map : &args.v_map, full, 0, 0,
                  is_key ? part * Shape::kTilesPerPart : 0, key_head, page, ptx::kEvictFirst);
    at = at + 1;
  }
}

// The table's entry for visible page i of the sequence.
__device__ __forceinline__ int table_slot(const DecodeArgs& args, const SwapWork& work, int i) {
  const int page = work.visible.page(i);
  const int past_sink = page - args.sink_pages;
  if (args.ring_pages == 0 || past_sink < 0) return page;
  return page - args.by_ring.divide(past_sink) * args.ring_pages;
}

// Lane i of the warp looks up page i of every 32; lane 0 requests them in turn. A table of a
// streaming module, at most 32 entries, is read whole while the length is still on its way.
template <typename Shape, typename Shared>
__device__ __forceinline__ void produce_pages(const DecodeArgs& args, Shared& shared,
                                              const SwapItem& item, int lane) {
  const std::int32_t* table = args.page_table + item.sequence * args.table_stride;
  const bool small_table = args.table_stride <= 32;
  if (!args.stable_prefix) ptx::wait_for_previous_kernel();
  const int length = static_cast<int>(args.lengths[item.sequence]);
  int entry = 0;
  if (small_table && lane < args.table_stride) entry = table[lane];
  const SwapWork work = find_work(args, item, length);
  // The last pages hold the new tokens, which the previous kernel may be writing.
  const int num_stable =
      args.stable_prefix ? work.visible.size - num_new_pages(work.length, args.q_len) : 0;
  typename Shared::Cursor at = {};
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
        request_page(args, shared, item.key_head, at, next_page);
      }
    }
  }
}

}  // namespace loza::attention::cuda
