#pragma once

#include "loza/attention/cuda/sm90/prefill_shape.cuh"

// The producer of the prefill kernel, one thread: copies queries, keys and values as room appears.
namespace loza::attention::cuda {

template <typename Shape>
struct PrefillProducer {
  const PrefillArgs& args;
  PrefillShared<Shape>& shared;
  QueryPlace q;
  RingPlace<Shape::kStages> kv;

  // Each consumer's as soon as it has done with those before.
  __device__ __forceinline__ void load_queries(const CUtensorMap& map, const PrefillTile& tile,
                                               const PrefillSequence& rows) {
    const int row = q_row(rows, tile.begin_pos());
#pragma unroll
    for (int consumer = 0; consumer < Shape::kConsumers; ++consumer) {
      auto* full = &shared.q_full[consumer];
      ptx::wait(&shared.q_empty[consumer], q.parity ^ 1);
      ptx::arrive_expecting(full, Shape::kQBytes);
      ptx::load_box(shared.q[consumer], &map, full, 0, row + consumer * Shape::kRows, 0, tile.head,
                    ptx::kEvictFirst);
    }
    q.advance();
  }

  __device__ __forceinline__ void load_keys(int row, int key_head) {
    auto* full = &shared.k_full[kv.stage];
    ptx::wait(&shared.k_empty[kv.stage], kv.parity ^ 1);
    ptx::arrive_expecting(full, Shape::kQkBytes);
    std::uint8_t* to = shared.k[kv.stage];
    ptx::load_box(to, &args.k_map, full, 0, row, 0, key_head, ptx::kEvictNormal);
    if (args.has_key_tail) {
      ptx::load_box(to + (Shape::kQkTiles - 1) * Shape::kSubTileBytes, &args.key_tail_map, full, 0,
                    row, 0, 0, ptx::kEvictNormal);
    }
  }

  __device__ __forceinline__ void load_values(int row, int key_head) {
    auto* full = &shared.v_full[kv.stage];
    ptx::wait(&shared.v_empty[kv.stage], kv.parity ^ 1);
    ptx::arrive_expecting(full, Shape::kVBytes);
    ptx::load_box(shared.v[kv.stage], &args.v_map, full, 0, row, 0, key_head, ptx::kEvictNormal);
  }

  // What a tile begins with is read by no other at that time and comes from memory, for all blocks
  // at once: asked for so many key tiles ahead, it comes while they are worked on.
  static constexpr int kAhead = 4;

  __device__ __forceinline__ void prefetch_queries(const CUtensorMap& map, const PrefillTile& tile,
                                                   const PrefillSequence& rows) {
    const int row = q_row(rows, tile.begin_pos());
#pragma unroll
    for (int consumer = 0; consumer < Shape::kConsumers; ++consumer) {
      ptx::prefetch_box(&map, 0, row + consumer * Shape::kRows, 0, tile.head);
    }
  }
  __device__ __forceinline__ void prefetch(const PrefillTile& tile) {
    if (tile.keys.size() == 0) return;
    const PrefillSequence& rows = args.sequences[tile.sequence];
    const int row = k_row(rows, tile.keys.tile(0) * kTileLen);
    const int key_head = tile.head / args.group_size;
    ptx::prefetch_box(&args.k_map, 0, row, 0, key_head);
    prefetch_queries(args.q_map, tile, rows);
    ptx::prefetch_box(&args.v_map, 0, row, 0, key_head);
  }
  __device__ __forceinline__ void prefetch_sink_queries(const PrefillTile& tile,
                                                        const PrefillSequence& rows) {
    if (!args.has_sink_q || tile.keys.sink_end == 0) return;
    prefetch_queries(args.sink_q_map, tile, rows);
  }

  // Queries follow the first keys that they meet: room for those comes earlier.
  __device__ __forceinline__ void produce(const PrefillTile& tile, bool has_next,
                                          const PrefillTile& next) {
    const PrefillSequence& rows = args.sequences[tile.sequence];
    const int key_head = tile.head / args.group_size;
    for (int i = 0; i < tile.keys.size(); ++i) {
      const int row = k_row(rows, tile.keys.tile(i) * kTileLen);
      load_keys(row, key_head);
      if (i == 0) load_queries(args.q_map, tile, rows);
      if (args.has_sink_q && i == tile.keys.num_recent) load_queries(args.sink_q_map, tile, rows);
      load_values(row, key_head);
      kv.advance();
      if (i == 0) prefetch_sink_queries(tile, rows);
      if (has_next && i == max(0, tile.keys.size() - kAhead)) prefetch(next);
    }
  }

  __device__ __forceinline__ void produce_all() {
    TileWalk walk(args);
    PrefillTile tile, next;
    bool has_next = walk.take(next);
    while (has_next) {
      tile = next;
      has_next = walk.take(next);
      produce(tile, has_next, next);
    }
  }
};

}  // namespace loza::attention::cuda
