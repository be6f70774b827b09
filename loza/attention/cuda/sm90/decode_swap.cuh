#pragma once

#include "loza/attention/cuda/device/layout.cuh"
#include "loza/attention/cuda/device/ptx.cuh"
#include "loza/attention/cuda/device/wgmma.cuh"
#include "loza/attention/cuda/sm90/decode_args.h"

// Paged decode with the operands swapped: S^T = K Q^T and O^T = V^T P^T, so that the 64 keys
// of a page are the rows of the matrix product and the few query rows its columns. Eight
// heads then cost eight columns, not 64 padded rows.
//
// A thread block has two consumer warpgroups and a producer warp. The producer copies pages
// into a ring of stages; consumer w takes pages w, w+2, ... of the block's share and carries
// each from scores to output alone, so the consumers meet only at the end. Then
//
//   the blocks of a cluster merge their partial results through each other's shared memory,
//   each a slice of the V output elements;
//   if an item has several clusters, each block leaves its slice in the workspace, and the
//   last to do so merges that slice in cluster order.
//
// Masks: only pages at the edge of some query's window are tested. Keys past the length are
// also cleared in V, because 0 * NaN is NaN.
namespace loza::attention::cuda {

// Sizes of one kernel. kRows columns of the products: query rows rounded up to 8.
template <typename Element_, int kRows_, int kQkSize_, int kVSize_, bool kValueInKey_>
struct SwapShape {
  using Element = Element_;
  static constexpr int kRows = kRows_, kQkSize = kQkSize_, kVSize = kVSize_;
  static constexpr bool kValueInKey = kValueInKey_;

  static constexpr int kConsumers = 2;
  static constexpr int kWarpgroup = 128;
  static constexpr int kConsumerThreads = kConsumers * kWarpgroup;
  static constexpr int kThreads = kConsumerThreads + kWarpgroup;

  static constexpr int kQkTiles = kQkSize / kSubTileCols;
  static constexpr int kVTiles = kVSize / kSubTileCols;
  static constexpr int kPageTiles = kQkTiles + (kValueInKey ? 0 : kVTiles);
  static constexpr int kFirstVTile = kValueInKey ? 0 : kQkTiles;
  static constexpr int kSubTileBytes = kPageLen * kRowBytes;
  static constexpr int kPageBytes = kPageTiles * kSubTileBytes;
  static constexpr int kQSubTileBytes = kRows * kRowBytes;

  // Keys arrive in parts, each with its own barrier, so that the first product starts early.
  static constexpr int kKeyParts = kQkTiles % 3 == 0 ? 3 : 1;
  static constexpr int kTilesPerKeyPart = kQkTiles / kKeyParts;
  static constexpr int kParts = kKeyParts + (kValueInKey ? 0 : 1);

  // P of a page lies where its last key sub-tile was: scores are done with it by then, and no
  // value lies there.
  static constexpr int kPTile = kQkTiles - 1;

  static constexpr int kSharedLimit = 232448;
  static constexpr int kSmallShared = 2048;
  static constexpr int kMostStages = 6;
  static constexpr int kFittingStages =
      (kSharedLimit - kSmallShared - kRows * kQkSize * 2) / kPageBytes;
  static constexpr int kStages = kFittingStages < kMostStages ? kFittingStages : kMostStages;

  // fp32 rows of partial output: 4 mod 32 words long, so that neither the fragments' columns
  // nor the merge's rows meet bank conflicts.
  static constexpr int kPartialCols = kVSize + 4;

  static_assert(kRows % 8 == 0 && kRows <= 32, "the output of a page must fit in registers");
  static_assert(kQkSize % kSubTileCols == 0 && kVSize % kSubTileCols == 0,
                "rows are whole sub-tiles");
  static_assert(!kValueInKey || kVTiles <= kPTile, "P must not overwrite values");
  static_assert(kStages >= kConsumers, "each consumer holds one page");
};

template <typename Shape>
struct SwapShared {
  union {
    alignas(kSubTileAlign) std::uint8_t pages[Shape::kStages][Shape::kPageBytes];
    float partial[Shape::kConsumers][Shape::kRows][Shape::kPartialCols];
  };
  alignas(kSubTileAlign) std::uint8_t q[Shape::kQkTiles][Shape::kQSubTileBytes];

  std::uint64_t full[Shape::kStages][Shape::kParts];
  std::uint64_t empty[Shape::kStages];
  float warp_max[Shape::kConsumers][4][Shape::kRows];
  float warp_sum[Shape::kConsumers][4][Shape::kRows];
  float2 stats[Shape::kConsumers][Shape::kRows];  // (max, sum) of each consumer's pages
  int row_pos[Shape::kRows];                      // position of the row's query
  int row_recent[Shape::kRows];                   // where its recent keys begin
  int is_last;
};

// The named barriers of the block.
enum BarrierId { kConsumer0 = 1, kConsumer1, kAllConsumers };

// What this block computes: a share of the visible pages of one item.
struct SwapWork {
  int sequence, key_head, row_tile, item;
  int first_row, num_rows;    // of the group's rows
  int cluster, cluster_size;  // which cluster of the item, and its blocks
  int rank;                   // of this block in its cluster
  int length;
  VisiblePages visible;
  Share pages;                // of visible

  __device__ __forceinline__ int num_units(const DecodeArgs& args) const {
    return args.num_clusters * cluster_size;
  }
  // Clusters that have pages; the first one always counts, to store the zeros of no page.
  __device__ __forceinline__ int num_active_clusters(const DecodeArgs& args) const {
    const int units = min(visible.size, num_units(args));
    return max(1, (units + cluster_size - 1) / cluster_size);
  }
};

__device__ __forceinline__ SwapWork find_work(const DecodeArgs& args) {
  SwapWork work;
  work.rank = static_cast<int>(ptx::cluster_rank());
  asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(work.cluster_size));
  const unsigned units = work.num_units(args);
  const unsigned item = blockIdx.x / units;
  const unsigned unit = blockIdx.x - item * units;
  const unsigned num_key_heads = args.num_heads / args.group_size;
  work.item = item;
  work.cluster = (unit - work.rank) / work.cluster_size;
  work.row_tile = item % args.num_row_tiles;
  work.key_head = item / args.num_row_tiles % num_key_heads;
  work.sequence = item / args.num_row_tiles / num_key_heads;
  work.first_row = work.row_tile * args.rows_per_tile;
  work.num_rows = min(args.rows_per_tile, args.q_len * args.group_size - work.first_row);
  work.length = static_cast<int>(args.lengths[work.sequence]);
  work.visible = visible_pages(args.pattern, work.length, args.q_len);
  work.pages = share_of(work.visible.size, units, unit);
  return work;
}

// A row of the group as token and head of the tensors.
struct RowPlace {
  std::int64_t token;
  int head;
};

__device__ __forceinline__ RowPlace place_of(const DecodeArgs& args, const SwapWork& work,
                                             int row) {
  const int group_row = work.first_row + row;
  const int token = group_row / args.group_size;
  return {static_cast<std::int64_t>(work.sequence) * args.q_len + token,
          work.key_head * args.group_size + group_row - token * args.group_size};
}

// ---- the producer: one warp ----

template <typename Shape>
__device__ __forceinline__ void request_page(const DecodeArgs& args, SwapShared<Shape>& shared,
                                             int key_head, int stage, int page) {
  std::uint8_t* destination = shared.pages[stage];
#pragma unroll
  for (int part = 0; part < Shape::kKeyParts; ++part) {
    constexpr int kBytes = Shape::kTilesPerKeyPart * Shape::kSubTileBytes;
    ptx::arrive_expecting(&shared.full[stage][part], kBytes);
    ptx::load_box(destination + part * kBytes, &args.k_map, &shared.full[stage][part], 0, 0,
                  part * Shape::kTilesPerKeyPart, key_head, page, ptx::kEvictFirst);
  }
  if constexpr (!Shape::kValueInKey) {
    constexpr int kBytes = Shape::kVTiles * Shape::kSubTileBytes;
    std::uint64_t* barrier = &shared.full[stage][Shape::kKeyParts];
    ptx::arrive_expecting(barrier, kBytes);
    ptx::load_box(destination + Shape::kFirstVTile * Shape::kSubTileBytes, &args.v_map, barrier, 0,
                  0, 0, key_head, page, ptx::kEvictFirst);
  }
}

// Lane i of the warp looks up page i of every 32; lane 0 requests them in turn.
template <typename Shape>
__device__ __forceinline__ void produce_pages(const DecodeArgs& args, SwapShared<Shape>& shared,
                                              const SwapWork& work, int lane) {
  const std::int32_t* table = args.page_table + work.sequence * args.table_stride;
  int stage = 0;
  std::uint32_t phase = 0;
  for (int base = 0; base < work.pages.size; base += 32) {
    int page = 0;
    if (base + lane < work.pages.size) {
      int slot = work.visible.page(work.pages.begin + base + lane);
      if (args.ring_pages > 0 && slot >= args.sink_pages) {
        slot = args.sink_pages + (slot - args.sink_pages) % args.ring_pages;
      }
      page = table[slot];
    }
    const int count = min(32, work.pages.size - base);
    for (int i = 0; i < count; ++i) {
      const int next_page = __shfl_sync(0xFFFFFFFF, page, i);
      if (lane == 0) {
        ptx::wait(&shared.empty[stage], phase ^ 1);
        request_page(args, shared, work.key_head, stage, next_page);
      }
      if (++stage == Shape::kStages) {
        stage = 0;
        phase ^= 1;
      }
    }
  }
}

// ---- the consumers: a warpgroup each ----

// Below any score, yet finite: exp2(-inf - kNoMax) is 0, not NaN.
inline constexpr float kNoMax = -1e30f;

// Registers of a consumer thread. Its fragment columns are query rows 8j + 2(lane%4) + e;
// max and sum are indexed 2j + e.
template <typename Shape>
struct SwapState {
  float out[Shape::kVTiles][Shape::kRows / 2];
  float max[Shape::kRows / 4];  // the reference that exponents are relative to, in log2
  float sum[Shape::kRows / 4];  // of this thread's keys only

  __device__ __forceinline__ SwapState() {
#pragma unroll
    for (int t = 0; t < Shape::kVTiles; ++t) {
#pragma unroll
      for (int i = 0; i < Shape::kRows / 2; ++i) out[t][i] = 0;
    }
#pragma unroll
    for (int c = 0; c < Shape::kRows / 4; ++c) {
      max[c] = kNoMax;
      sum[c] = 0;
    }
  }
};

struct ConsumerThread {
  int consumer, thread, warp, lane;  // thread and warp within the warpgroup

  __device__ __forceinline__ int barrier() const { return kConsumer0 + consumer; }
  __device__ __forceinline__ int key(int half) const { return 16 * warp + lane / 4 + 8 * half; }
  __device__ __forceinline__ int row(int column) const {
    return 8 * (column / 2) + 2 * (lane % 4) + column % 2;
  }
};

// Index in a fragment of the thread's `column`, of its key `half`.
__device__ __forceinline__ constexpr int fragment_index(int column, int half) {
  return 4 * (column / 2) + 2 * half + column % 2;
}

// Q of the item's rows into shared memory, rows past the last as zeros, and the rows' windows.
template <typename Shape>
__device__ __forceinline__ void load_queries(const DecodeArgs& args, SwapShared<Shape>& shared,
                                             const SwapWork& work, int thread) {
  using Element = typename Shape::Element;
  constexpr int kChunks = Shape::kQkSize * 2 / kChunkBytes;
  constexpr int kElements = kChunkBytes / 2;
  constexpr int kRounds = (Shape::kRows * kChunks + Shape::kConsumerThreads - 1) /
                          Shape::kConsumerThreads;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int index = round * Shape::kConsumerThreads + thread;
    const int row = index / kChunks, chunk = index % kChunks;
    if (row < Shape::kRows) {
      uint4 value = {0, 0, 0, 0};
      if (row < work.num_rows) {
        const RowPlace place = place_of(args, work, row);
        value = *reinterpret_cast<const uint4*>(
            static_cast<const Element*>(args.q) + place.token * args.q_token_stride +
            place.head * args.q_head_stride + chunk * kElements);
      }
      *reinterpret_cast<uint4*>(shared.q[chunk / 8] + chunk_offset(row, chunk % 8)) = value;
    }
  }
  if (thread < Shape::kRows) {
    const int group_row = work.first_row + min(thread, work.num_rows - 1);
    const int pos = work.length - args.q_len + group_row / args.group_size;
    shared.row_pos[thread] = pos;
    shared.row_recent[thread] = pos < 0 ? 0 : args.pattern.recent_begin(pos);
  }
}

// S^T [64 keys, kRows] = K Q^T, part by part as the page arrives.
template <typename Shape>
__device__ __forceinline__ void multiply_keys(float (&scores)[Shape::kRows / 2],
                                              SwapShared<Shape>& shared, int stage,
                                              std::uint32_t phase) {
  const Descriptor keys = sub_tile_descriptor(ptx::shared_address(shared.pages[stage]));
  const Descriptor queries = sub_tile_descriptor(ptx::shared_address(shared.q));
#pragma unroll
  for (int part = 0; part < Shape::kKeyParts; ++part) {
    ptx::wait(&shared.full[stage][part], phase);
    wgmma_begin();
#pragma unroll
    for (int t = part * Shape::kTilesPerKeyPart; t < (part + 1) * Shape::kTilesPerKeyPart; ++t) {
#pragma unroll
      for (int step = 0; step < kStepsPerSubTile; ++step) {
        wgmma<typename Shape::Element, Operand::kRows>(
            scores, keys + (t * Shape::kSubTileBytes + step * kRowOperandStep),
            queries + (t * Shape::kQSubTileBytes + step * kRowOperandStep), t + step > 0);
      }
    }
  }
  wgmma_commit();
  wgmma_finish(scores);
}

// Whether some key of the page is hidden from some row.
__device__ __forceinline__ bool needs_mask(const DecodeArgs& args, const SwapWork& work,
                                           int page_begin, int newest_recent) {
  const bool reaches_queries = page_begin + kPageLen - 1 > work.length - args.q_len;
  const bool left_by_newest = page_begin >= args.pattern.sink_len() && page_begin < newest_recent;
  return reaches_queries || left_by_newest;
}

template <typename Shape>
__device__ __forceinline__ void mask_scores(float (&scores)[Shape::kRows / 2],
                                            const SwapShared<Shape>& shared,
                                            const ConsumerThread& self, int page_begin,
                                            int sink_len) {
#pragma unroll
  for (int c = 0; c < Shape::kRows / 4; ++c) {
    const int pos = shared.row_pos[self.row(c)];
    const int recent = shared.row_recent[self.row(c)];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int key = page_begin + self.key(half);
      const bool visible = key <= pos && (key < sink_len || key >= recent);
      if (!visible) scores[fragment_index(c, half)] = -INFINITY;
    }
  }
}

// V rows past the length may hold anything; P is 0 there.
template <typename Shape>
__device__ __forceinline__ void clear_values(std::uint8_t* page, int first_row, int thread) {
  constexpr int kChunks = Shape::kVTiles * 8;
  for (int i = thread; i < (kPageLen - first_row) * kChunks; i += Shape::kWarpgroup) {
    const int row = first_row + i / kChunks, chunk = i % kChunks;
    *reinterpret_cast<uint4*>(page + (Shape::kFirstVTile + chunk / 8) * Shape::kSubTileBytes +
                              chunk_offset(row, chunk % 8)) = {0, 0, 0, 0};
  }
}

// Moves the references to the true maxima of all keys so far and rescales what depends on them.
template <typename Shape>
__device__ __forceinline__ void raise_max(SwapState<Shape>& state,
                                          const float (&scores)[Shape::kRows / 2],
                                          SwapShared<Shape>& shared, const ConsumerThread& self) {
  auto& warp_max = shared.warp_max[self.consumer];
#pragma unroll
  for (int c = 0; c < Shape::kRows / 4; ++c) {
    float most = fmaxf(scores[fragment_index(c, 0)], scores[fragment_index(c, 1)]);
#pragma unroll
    for (int lanes = 4; lanes < 32; lanes *= 2) {
      most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFF, most, lanes));
    }
    if (self.lane < 4) warp_max[self.warp][self.row(c)] = most;
  }
  ptx::sync(self.barrier(), Shape::kWarpgroup);
#pragma unroll
  for (int c = 0; c < Shape::kRows / 4; ++c) {
    float most = state.max[c];
#pragma unroll
    for (int warp = 0; warp < 4; ++warp) most = fmaxf(most, warp_max[warp][self.row(c)]);
    const float scale = ptx::exp2(state.max[c] - most);
    state.max[c] = most;
    state.sum[c] *= scale;
#pragma unroll
    for (int t = 0; t < Shape::kVTiles; ++t) {
      state.out[t][fragment_index(c, 0)] *= scale;
      state.out[t][fragment_index(c, 1)] *= scale;
    }
  }
}

// P = exp2(S - max), summed, and stored as [kRows][64 keys] for the second product.
template <typename Shape>
__device__ __forceinline__ void exponentiate(SwapState<Shape>& state,
                                             const float (&scores)[Shape::kRows / 2],
                                             std::uint8_t* p_tile, const ConsumerThread& self) {
  using Element = typename Shape::Element;
  // Lanes 0..7 address the 8 rows of keys 16w..16w+7, lanes 8..15 those of keys 16w+8...
  const int chunk = 2 * self.warp + self.lane / 8 % 2;
#pragma unroll
  for (int j = 0; j < Shape::kRows / 8; ++j) {
    float p[2][2];  // [key half][column]
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int c = 2 * j + e;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        p[half][e] = ptx::exp2(scores[fragment_index(c, half)] - state.max[c]);
      }
      state.sum[c] += p[0][e] + p[1][e];
    }
    const int row = 8 * j + self.lane % 8;
    ptx::store_matrices_transposed(ptx::shared_address(p_tile) + chunk_offset(row, chunk),
                                   pack<Element>(p[0][0], p[0][1]),
                                   pack<Element>(p[1][0], p[1][1]));
  }
}

// O^T [V, kRows] += V^T P^T.
template <typename Shape>
__device__ __forceinline__ void multiply_values(SwapState<Shape>& state,
                                                SwapShared<Shape>& shared, int stage) {
  const std::uint8_t* page = shared.pages[stage];
  const Descriptor values =
      sub_tile_descriptor(ptx::shared_address(page + Shape::kFirstVTile * Shape::kSubTileBytes));
  const Descriptor p =
      sub_tile_descriptor(ptx::shared_address(page + Shape::kPTile * Shape::kSubTileBytes));
  wgmma_begin();
#pragma unroll
  for (int step = 0; step < kStepsPerSubTile; ++step) {
#pragma unroll
    for (int t = 0; t < Shape::kVTiles; ++t) {
      wgmma<typename Shape::Element, Operand::kColumns>(
          state.out[t], values + (t * Shape::kSubTileBytes + step * kColumnOperandStep),
          p + step * kRowOperandStep, true);
    }
  }
  wgmma_commit();
  wgmma_finish(state.out);
}

// Every second page of the share, from scores to output.
template <typename Shape>
__device__ __forceinline__ void consume_pages(SwapState<Shape>& state, const DecodeArgs& args,
                                              SwapShared<Shape>& shared, const SwapWork& work,
                                              const ConsumerThread& self) {
  // The reference may lag behind the maximum by a factor 2^8, which costs no accuracy: P and
  // its sum are floating point. So rescaling is rare after the first page.
  constexpr float kLag = 8;
  const int newest_recent = work.length > 0 ? args.pattern.recent_begin(work.length - 1) : 0;
  int stage = self.consumer;
  std::uint32_t phase = 0;
  for (int i = self.consumer; i < work.pages.size; i += Shape::kConsumers) {
    const int page_begin = work.visible.page(work.pages.begin + i) * kPageLen;
    std::uint8_t* page = shared.pages[stage];

    float scores[Shape::kRows / 2];
    multiply_keys(scores, shared, stage, phase);
#pragma unroll
    for (float& score : scores) score *= args.scale_log2;
    if (needs_mask(args, work, page_begin, newest_recent)) {
      mask_scores(scores, shared, self, page_begin, args.pattern.sink_len());
    }

    bool grows = false;
#pragma unroll
    for (int c = 0; c < Shape::kRows / 4; ++c) {
      grows |= fmaxf(scores[fragment_index(c, 0)], scores[fragment_index(c, 1)]) >
               state.max[c] + kLag;
    }
    // Also: all warps are done with the keys, whose place P takes.
    if (ptx::sync_any(self.barrier(), Shape::kWarpgroup, grows)) {
      raise_max(state, scores, shared, self);
    }
    if constexpr (!Shape::kValueInKey) ptx::wait(&shared.full[stage][Shape::kKeyParts], phase);
    if (page_begin + kPageLen > work.length) {
      clear_values<Shape>(page, work.length - page_begin, self.thread);
    }
    exponentiate(state, scores, page + Shape::kPTile * Shape::kSubTileBytes, self);
    ptx::fence_async_proxy();
    ptx::sync(self.barrier(), Shape::kWarpgroup);
    multiply_values(state, shared, stage);
    if (self.lane == 0) ptx::arrive(&shared.empty[stage]);

    stage += Shape::kConsumers;
    if (stage >= Shape::kStages) {
      stage -= Shape::kStages;
      phase ^= 1;
    }
  }
}

// ---- the merge: partial results are (max, sum, unnormalised output) ----

// Leaves the partial results of both consumers in shared memory.
template <typename Shape>
__device__ __forceinline__ void leave_partials(SwapState<Shape>& state, SwapShared<Shape>& shared,
                                               const ConsumerThread& self) {
#pragma unroll
  for (int c = 0; c < Shape::kRows / 4; ++c) {
    float sum = state.sum[c];
#pragma unroll
    for (int lanes = 4; lanes < 32; lanes *= 2) sum += __shfl_xor_sync(0xFFFFFFFF, sum, lanes);
    if (self.lane < 4) {
      shared.warp_sum[self.consumer][self.warp][self.row(c)] = sum;
      if (self.warp == 0) shared.stats[self.consumer][self.row(c)].x = state.max[c];
    }
  }
  // Both consumers are done with the pages, whose place the partial outputs take.
  ptx::sync(kAllConsumers, Shape::kConsumerThreads);
  if (self.thread < Shape::kRows) {
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < 4; ++warp) sum += shared.warp_sum[self.consumer][warp][self.thread];
    shared.stats[self.consumer][self.thread].y = sum;
  }
#pragma unroll
  for (int t = 0; t < Shape::kVTiles; ++t) {
#pragma unroll
    for (int c = 0; c < Shape::kRows / 4; ++c) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        shared.partial[self.consumer][self.row(c)][kSubTileCols * t + self.key(half)] =
            state.out[t][fragment_index(c, half)];
      }
    }
  }
}

// A partial softmax of one row, 4 of its output elements.
struct Partial {
  float max = kNoMax, sum = 0;
  float4 out = {0, 0, 0, 0};

  __device__ __forceinline__ void add(float2 stats, float4 other, float new_max) {
    const float weight = ptx::exp2(stats.x - new_max);
    sum += weight * stats.y;
    out.x += weight * other.x;
    out.y += weight * other.y;
    out.z += weight * other.z;
    out.w += weight * other.w;
  }
};

// The partial results of all blocks of the cluster for 4 output elements of a row.
template <typename Shape>
__device__ __forceinline__ Partial merge_cluster(SwapShared<Shape>& shared, const DecodeArgs& args,
                                                 const SwapWork& work, int row, int column) {
  const int units = work.num_units(args);
  const int first_unit = work.cluster * work.cluster_size;
  Partial merged;
#pragma unroll 4
  for (int rank = 0; rank < work.cluster_size; ++rank) {
    const int pages = share_of(work.visible.size, units, first_unit + rank).size;
#pragma unroll
    for (int consumer = 0; consumer < Shape::kConsumers; ++consumer) {
      if (consumer < pages) {
        const float2 stats =
            ptx::load_peer_float2(ptx::peer_address(&shared.stats[consumer][row], rank));
        merged.max = fmaxf(merged.max, stats.x);
      }
    }
  }
#pragma unroll 4
  for (int rank = 0; rank < work.cluster_size; ++rank) {
    const int pages = share_of(work.visible.size, units, first_unit + rank).size;
#pragma unroll
    for (int consumer = 0; consumer < Shape::kConsumers; ++consumer) {
      if (consumer < pages) {
        const float2 stats =
            ptx::load_peer_float2(ptx::peer_address(&shared.stats[consumer][row], rank));
        const float4 out = ptx::load_peer_float4(
            ptx::peer_address(&shared.partial[consumer][row][column], rank));
        merged.add(stats, out, merged.max);
      }
    }
  }
  return merged;
}

// The same over the clusters of an item, from the workspace.
template <typename Shape>
__device__ __forceinline__ Partial merge_clusters(const float2* stats, const float* out,
                                                  int num_partials, int slice_cols, int row,
                                                  int column) {
  Partial merged;
#pragma unroll 8
  for (int i = 0; i < num_partials; ++i) {
    merged.max = fmaxf(merged.max, __ldcg(&stats[i * Shape::kRows + row]).x);
  }
#pragma unroll 8
  for (int i = 0; i < num_partials; ++i) {
    const auto* place = out + static_cast<std::int64_t>(i * Shape::kRows + row) * slice_cols;
    merged.add(__ldcg(&stats[i * Shape::kRows + row]),
               __ldcg(reinterpret_cast<const float4*>(place + column)), merged.max);
  }
  return merged;
}

template <typename Shape>
__device__ __forceinline__ void store_result(const DecodeArgs& args, const SwapWork& work,
                                             const Partial& merged, int row, int column) {
  using Element = typename Shape::Element;
  const RowPlace place = place_of(args, work, row);
  const float inverse = merged.sum > 0 ? 1 / merged.sum : 0;
  const uint2 words = {pack<Element>(merged.out.x * inverse, merged.out.y * inverse),
                       pack<Element>(merged.out.z * inverse, merged.out.w * inverse)};
  *reinterpret_cast<uint2*>(static_cast<Element*>(args.out) +
                            place.token * args.out_token_stride +
                            place.head * args.out_head_stride + column) = words;
  if (column == 0 && args.lse != nullptr) {
    constexpr float kLn2 = 0.693147180559945f;
    args.lse[place.token * args.num_heads + place.head] =
        merged.sum > 0 ? (merged.max + log2f(merged.sum)) * kLn2 : -INFINITY;
  }
}

// Merges this block's slice of the output over the cluster, and over the clusters if it is
// the last of them to come here.
template <typename Shape>
__device__ __forceinline__ void finish(const DecodeArgs& args, SwapShared<Shape>& shared,
                                       const SwapWork& work, int thread) {
  const int slice_cols = Shape::kVSize / work.cluster_size;
  const int first_column = work.rank * slice_cols;
  const int vectors = slice_cols / 4;
  const int num_partials = work.num_active_clusters(args);
  const bool alone = num_partials == 1;

  const std::int64_t slice = static_cast<std::int64_t>(work.item) * work.cluster_size + work.rank;
  float2* stats = args.partial_stats + slice * args.num_clusters * Shape::kRows;
  float* partials = args.partial_out + slice * args.num_clusters * Shape::kRows * slice_cols;

  for (int i = thread; i < work.num_rows * vectors; i += Shape::kConsumerThreads) {
    const int row = i / vectors, column = 4 * (i - row * vectors);
    const Partial merged = merge_cluster(shared, args, work, row, first_column + column);
    if (alone) {
      store_result<Shape>(args, work, merged, row, first_column + column);
    } else {
      const int place = work.cluster * Shape::kRows + row;
      if (column == 0) stats[place] = {merged.max, merged.sum};
      *reinterpret_cast<float4*>(partials + static_cast<std::int64_t>(place) * slice_cols +
                                 column) = merged.out;
    }
  }
  if (alone) return;

  __threadfence();
  ptx::sync(kAllConsumers, Shape::kConsumerThreads);
  if (thread == 0) {
    // Counts up to num_partials - 1 and back to 0, ready for the next launch.
    shared.is_last = atomicInc(&args.counters[slice], num_partials - 1) == num_partials - 1;
    __threadfence();
  }
  ptx::sync(kAllConsumers, Shape::kConsumerThreads);
  if (!shared.is_last) return;
  for (int i = thread; i < work.num_rows * vectors; i += Shape::kConsumerThreads) {
    const int row = i / vectors, column = 4 * (i - row * vectors);
    const Partial merged =
        merge_clusters<Shape>(stats, partials, num_partials, slice_cols, row, column);
    store_result<Shape>(args, work, merged, row, first_column + column);
  }
}

// ---- the kernel ----

template <typename Shape>
__device__ __forceinline__ void init_barriers(SwapShared<Shape>& shared) {
  for (int stage = 0; stage < Shape::kStages; ++stage) {
    for (int part = 0; part < Shape::kParts; ++part) ptx::init_barrier(&shared.full[stage][part], 1);
    ptx::init_barrier(&shared.empty[stage], 4);  // the warps of the consumer that has the page
  }
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
  ptx::wait_for_previous_kernel();
  ptx::allow_next_kernel();

  const SwapWork work = find_work(args);
  if (work.cluster >= work.num_active_clusters(args)) return;
  if (warpgroup == Shape::kConsumers) {
    if constexpr (Shape::kRows > 16) ptx::shrink_registers<40>();
    const int thread = threadIdx.x % Shape::kWarpgroup;
    if (thread < 32) produce_pages(args, shared, work, thread);
    return;
  }
  if constexpr (Shape::kRows > 16) ptx::grow_registers<232>();
  const int thread = threadIdx.x % Shape::kWarpgroup;
  const ConsumerThread self = {warpgroup, thread, thread / 32, thread % 32};

  load_queries(args, shared, work, threadIdx.x);
  ptx::fence_async_proxy();
  ptx::sync(kAllConsumers, Shape::kConsumerThreads);

  SwapState<Shape> state;
  consume_pages(state, args, shared, work, self);
  leave_partials(state, shared, self);
  // The other blocks' partials are there, and, at the end, no longer needed by them.
  ptx::cluster_arrive();
  ptx::cluster_wait();
  finish(args, shared, work, threadIdx.x);
  ptx::cluster_arrive();
  ptx::cluster_wait();
}

}  // namespace loza::attention::cuda
