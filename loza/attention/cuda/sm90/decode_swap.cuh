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
//   the consumers of a block merge their results, each one half of the V output elements;
//   the blocks of a cluster send each other slices of theirs, and each merges its slice;
//   if an item has several clusters, each block leaves its slice in the workspace, and the
//   last to do so merges that slice in cluster order.
//
// Masks: only pages at the edge of some query's window are tested. Keys past the length are
// also cleared in V, because 0 * NaN is NaN.
namespace loza::attention::cuda {

inline constexpr int kConsumerThreads = 256;

// A partial softmax of a row is (max, sum) and the output as summed: relative to max, not
// divided by sum. This takes the place of the queries at the end.
template <int kRows>
struct MergeScratch {
  float2 received_stats[kMostBlocks][kRows];
  float weights[kMostClusters][kRows];
};

// Sizes of one kernel. kRows columns of the products: query rows rounded up to 8.
template <typename Element_, int kRows_, int kQkSize_, int kVSize_, bool kValueInKey_>
struct SwapShape {
  using Element = Element_;
  static constexpr int kRows = kRows_, kQkSize = kQkSize_, kVSize = kVSize_;
  static constexpr bool kValueInKey = kValueInKey_;

  static constexpr int kConsumers = 2;
  static constexpr int kWarpgroup = 128;
  static_assert(kConsumers * kWarpgroup == kConsumerThreads);
  static constexpr int kThreads = kConsumerThreads + kWarpgroup;

  static constexpr int kQkTiles = kQkSize / kSubTileCols;
  static constexpr int kVTiles = kVSize / kSubTileCols;
  static constexpr int kPageTiles = kQkTiles + (kValueInKey ? 0 : kVTiles);
  static constexpr int kFirstVTile = kValueInKey ? 0 : kQkTiles;
  static constexpr int kSubTileBytes = kPageLen * kRowBytes;
  static constexpr int kPageBytes = kPageTiles * kSubTileBytes;
  static constexpr int kQSubTileBytes = kRows * kRowBytes;
  static constexpr int kQBytes = kQkTiles * kQSubTileBytes >
                                         static_cast<int>(sizeof(MergeScratch<kRows>))
                                     ? kQkTiles* kQSubTileBytes
                                     : static_cast<int>(sizeof(MergeScratch<kRows>));

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
  static constexpr int kFittingStages = (kSharedLimit - kSmallShared - kQBytes) / kPageBytes;
  static constexpr int kStages = kFittingStages < kMostStages ? kFittingStages : kMostStages;

  // fp32 rows of a block's output: 4 mod 32 words long, so that neither the fragments' columns
  // nor the merge's rows meet bank conflicts.
  static constexpr int kBlockOutCols = kVSize + 4;
  // Slices are whole vectors of 4, so that those of all blocks may exceed the row.
  static constexpr int kReceivedCols = kVSize + 4 * kMostBlocks;

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
    struct {
      float block_out[Shape::kRows][Shape::kBlockOutCols];
      float received_out[Shape::kRows * Shape::kReceivedCols];  // [blocks, kRows, slice]
    };
  };
  union {
    alignas(kSubTileAlign) std::uint8_t q[Shape::kQkTiles][Shape::kQSubTileBytes];
    MergeScratch<Shape::kRows> merge;
  };

  // Two for each stage, used in turn. With one, a consumer that comes for use n of a stage
  // before use n-1, the other consumer's, has arrived would take use n-2's completion for its
  // own: a barrier knows only the parity of its phase.
  std::uint64_t full[2][Shape::kStages][Shape::kParts];
  std::uint64_t empty[Shape::kStages];
  std::uint64_t stats_received, out_received;  // of all blocks of the cluster
  float warp_max[Shape::kConsumers][4][Shape::kRows];
  float warp_sum[Shape::kConsumers][4][Shape::kRows];
  float consumer_max[Shape::kConsumers][Shape::kRows];
  int row_pos[Shape::kRows];     // position of the row's query
  int row_recent[Shape::kRows];  // where its recent keys begin
};

// The named barriers of the block.
enum BarrierId { kConsumer0 = 1, kConsumer1, kAllConsumers };

__device__ __forceinline__ void sync_consumers() { ptx::sync<kAllConsumers, kConsumerThreads>(); }

// Division by multiplication, exact while number * divisor < 2^32. REQUIRES: divisor >= 2.
struct Divisor {
  unsigned inverse;

  __device__ __forceinline__ explicit Divisor(unsigned divisor)
      : inverse(0xFFFFFFFFu / divisor + 1) {}
  __device__ __forceinline__ int divide(unsigned number) const {
    return static_cast<int>(__umulhi(number, inverse));
  }
};

// Division by numbers that are mostly 1 and always small.
__device__ __forceinline__ unsigned divide(unsigned number, unsigned divisor) {
  return divisor == 1 ? number : number / divisor;
}

// Which item this block works on, and with whom.
struct SwapItem {
  int sequence, key_head, index;
  int first_row, num_rows;    // of the group's rows
  int cluster, cluster_size;  // which cluster of the item, and its blocks
  int rank;                   // of this block in its cluster
};

__device__ __forceinline__ SwapItem find_item(const DecodeArgs& args) {
  SwapItem item;
  item.rank = static_cast<int>(ptx::cluster_rank());
  item.cluster_size = static_cast<int>(ptx::cluster_size());
  const unsigned cluster = ptx::cluster_index();
  item.index = divide(cluster, args.num_clusters);
  item.cluster = cluster - item.index * args.num_clusters;
  const int head_index = divide(item.index, args.num_row_tiles);
  const int row_tile = item.index - head_index * args.num_row_tiles;
  item.sequence = divide(head_index, args.num_key_heads);
  item.key_head = head_index - item.sequence * args.num_key_heads;
  item.first_row = row_tile * args.rows_per_tile;
  item.num_rows = min(args.rows_per_tile, args.q_len * args.group_size - item.first_row);
  return item;
}

// What the block computes: a share of the item's visible pages.
struct SwapWork {
  int length;
  VisiblePages visible;
  Share pages;        // of visible
  int num_consumers;  // that have pages in some block of the item
  int num_clusters;   // that have pages; at least one, which stores the zeros of none
};

__device__ __forceinline__ SwapWork find_work(const DecodeArgs& args, const SwapItem& item) {
  SwapWork work;
  work.length = static_cast<int>(args.lengths[item.sequence]);
  work.visible = visible_pages(args.pattern, work.length, args.q_len);
  const int units = args.num_clusters * item.cluster_size;
  const int unit = item.cluster * item.cluster_size + item.rank;
  work.pages = share_of(work.visible.size, units, unit);
  work.num_consumers = work.visible.size > units ? 2 : 1;
  const int active_units = min(work.visible.size, units);
  work.num_clusters = max(1, (active_units + item.cluster_size - 1) / item.cluster_size);
  return work;
}

// A row of the group as token and head of the tensors.
struct RowPlace {
  std::int64_t token;
  int head;
};

__device__ __forceinline__ RowPlace place_of(const DecodeArgs& args, const SwapItem& item,
                                             int row) {
  const int group_row = item.first_row + row;
  const int token = args.q_len == 1 ? 0 : group_row / args.group_size;
  return {static_cast<std::int64_t>(item.sequence) * args.q_len + token,
          item.key_head * args.group_size + group_row - token * args.group_size};
}

// ---- the producer: one warp ----

template <typename Shape>
__device__ __forceinline__ void request_page(const DecodeArgs& args, SwapShared<Shape>& shared,
                                             int key_head, int stage, int use, int page) {
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
template <typename Shape>
__device__ __forceinline__ void produce_pages(const DecodeArgs& args, SwapShared<Shape>& shared,
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
        request_page(args, shared, item.key_head, stage, use, next_page);
      }
      if (++stage == Shape::kStages) {
        stage = 0;
        ++use;
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

// Q on its way from memory: 16-byte chunks, rows past the last as zeros. Requested before
// anything else, lest it queue behind the pages of all blocks.
template <typename Shape>
struct Queries {
  static constexpr int kChunks = Shape::kQkSize * 2 / kChunkBytes;
  static constexpr int kRounds = (Shape::kRows * kChunks + kConsumerThreads - 1) / kConsumerThreads;

  uint4 chunks[kRounds];

  __device__ __forceinline__ Queries(const DecodeArgs& args, const SwapItem& item, int thread) {
    using Element = typename Shape::Element;
    constexpr int kElements = kChunkBytes / 2;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int index = round * kConsumerThreads + thread;
      const int row = index / kChunks, chunk = index % kChunks;
      chunks[round] = {0, 0, 0, 0};
      if (row < item.num_rows) {
        const RowPlace place = place_of(args, item, row);
        chunks[round] = *reinterpret_cast<const uint4*>(
            static_cast<const Element*>(args.q) + place.token * args.q_token_stride +
            place.head * args.q_head_stride + chunk * kElements);
      }
    }
  }

  __device__ __forceinline__ void store(SwapShared<Shape>& shared, int thread) const {
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int index = round * kConsumerThreads + thread;
      const int row = index / kChunks, chunk = index % kChunks;
      if (row < Shape::kRows) {
        *reinterpret_cast<uint4*>(shared.q[chunk / 8] + chunk_offset(row, chunk % 8)) =
            chunks[round];
      }
    }
  }
};

// The window of the query of each row.
template <typename Shape>
__device__ __forceinline__ void store_windows(const DecodeArgs& args, SwapShared<Shape>& shared,
                                              const SwapItem& item, int length, int thread) {
  if (thread >= Shape::kRows) return;
  const int group_row = item.first_row + min(thread, item.num_rows - 1);
  const int token = args.q_len == 1 ? 0 : group_row / args.group_size;
  const int pos = length - args.q_len + token;
  shared.row_pos[thread] = pos;
  shared.row_recent[thread] = pos < 0 ? 0 : args.pattern.recent_begin(pos);
}

// S^T [64 keys, kRows] = K Q^T, part by part as the page arrives.
template <typename Shape>
__device__ __forceinline__ void multiply_keys(float (&scores)[Shape::kRows / 2],
                                              SwapShared<Shape>& shared, int stage, int use) {
  const Descriptor keys = sub_tile_descriptor(ptx::shared_address(shared.pages[stage]));
  const Descriptor queries = sub_tile_descriptor(ptx::shared_address(shared.q));
#pragma unroll
  for (int part = 0; part < Shape::kKeyParts; ++part) {
    ptx::wait(&shared.full[use % 2][stage][part], use / 2 % 2);
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
__device__ __forceinline__ void multiply_values(SwapState<Shape>& state, SwapShared<Shape>& shared,
                                                int stage) {
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
  int stage = self.consumer, use = 0;
  for (int i = self.consumer; i < work.pages.size; i += Shape::kConsumers) {
    const int page_begin = work.visible.page(work.pages.begin + i) * kPageLen;
    std::uint8_t* page = shared.pages[stage];

    float scores[Shape::kRows / 2];
    multiply_keys(scores, shared, stage, use);
#pragma unroll
    for (float& score : scores) score *= args.scale_log2;
    if (needs_mask(args, work, page_begin, newest_recent)) {
      mask_scores(scores, shared, self, page_begin, args.pattern.sink_len());
    }

    bool grows = false;
#pragma unroll
    for (int c = 0; c < Shape::kRows / 4; ++c) {
      grows |=
          fmaxf(scores[fragment_index(c, 0)], scores[fragment_index(c, 1)]) > state.max[c] + kLag;
    }
    // Also: all warps are done with the keys, whose place P takes.
    if (ptx::sync_any(self.barrier(), Shape::kWarpgroup, grows)) {
      raise_max(state, scores, shared, self);
    }
    if constexpr (!Shape::kValueInKey) {
      ptx::wait(&shared.full[use % 2][stage][Shape::kKeyParts], use / 2 % 2);
    }
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
      ++use;
    }
  }
}

// ---- the end of a block: the consumers' results merged, in shared memory ----

// The consumer that merges output elements [64t, 64t + 64).
template <typename Shape>
__device__ __forceinline__ constexpr int owner_of(int t) {
  return t < (Shape::kVTiles + 1) / 2 ? 0 : 1;
}

// Where the thread's fragment of tile t, column c, key half `half`, lies in the block's output.
template <typename Shape>
__device__ __forceinline__ float& block_out(SwapShared<Shape>& shared, const ConsumerThread& self,
                                            int t, int c, int half) {
  return shared.block_out[self.row(c)][kSubTileCols * t + self.key(half)];
}

// Applies visit(place in shared memory, register) to the thread's elements of the tiles that
// consumer `owner` merges.
template <typename Shape, typename Visit>
__device__ __forceinline__ void visit_outs(SwapState<Shape>& state, SwapShared<Shape>& shared,
                                           const ConsumerThread& self, int owner,
                                           const Visit& visit) {
#pragma unroll
  for (int t = 0; t < Shape::kVTiles; ++t) {
    if (owner_of<Shape>(t) != owner) continue;
#pragma unroll
    for (int c = 0; c < Shape::kRows / 4; ++c) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        visit(block_out(shared, self, t, c, half), state.out[t][fragment_index(c, half)]);
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

// Leaves the block's output in block_out. On the way tells the cluster that the place of its
// pages and queries is free.
template <typename Shape>
__device__ __forceinline__ void merge_consumers(SwapState<Shape>& state, SwapShared<Shape>& shared,
                                                const SwapItem& item, const SwapWork& work,
                                                const ConsumerThread& self) {
  const auto put = [](float& place, float value) { place = value; };
  const auto add = [](float& place, float value) { place += value; };
  share_stats(state, shared, self);
  // Both consumers are done with the pages and the queries.
  sync_consumers();
  if (item.cluster_size > 1) ptx::cluster_arrive();
  if (work.num_consumers == 1) {
    if (self.consumer == 0) {
      visit_outs(state, shared, self, 0, put);
      visit_outs(state, shared, self, 1, put);
    }
  } else {
    rescale_to_block(state, shared, self);
    visit_outs(state, shared, self, 1 - self.consumer, put);
    sync_consumers();
    visit_outs(state, shared, self, self.consumer, add);
  }
  sync_consumers();
}

// Rows are dealt to them in the merges below.
inline constexpr int kConsumerWarps = kConsumerThreads / 32;

// The part of the V output elements that a block of the cluster merges: all blocks the same
// number of vectors of 4, the last ones less or none.
struct Slice {
  int stride, begin, size;  // elements; stride is the size of a full slice
};

template <typename Shape>
__device__ __forceinline__ Slice slice_of(int cluster_size, int rank) {
  const int stride = (Shape::kVSize / 4 + cluster_size - 1) / cluster_size * 4;
  const int begin = min(rank * stride, Shape::kVSize);
  return {stride, begin, min(stride, Shape::kVSize - begin)};
}

// Sends every block of the cluster this block's stats and its slice of the output.
template <typename Shape>
__device__ __forceinline__ void send_slices(SwapShared<Shape>& shared, const SwapItem& item,
                                            const Slice& own, int thread) {
  constexpr int kRowVectors = Shape::kVSize / 4;
  const int warp = thread / 32, lane = thread % 32;
  if (thread == 0) {
    ptx::arrive_expecting(&shared.stats_received,
                          item.num_rows * item.cluster_size * static_cast<int>(sizeof(float2)));
    ptx::arrive_expecting(&shared.out_received, item.num_rows * item.cluster_size * own.size * 4);
  }
  for (int row = warp; row < item.num_rows; row += kConsumerWarps) {
    if (lane < item.cluster_size) {
      ptx::send(ptx::peer_address(&shared.merge.received_stats[item.rank][row], lane),
                ptx::peer_address(&shared.stats_received, lane), block_stats(shared, row));
    }
  }
  const Divisor by_stride(own.stride);
#pragma unroll 4
  for (int i = thread; i < item.num_rows * kRowVectors; i += kConsumerThreads) {
    const int row = i / kRowVectors, column = 4 * (i % kRowVectors);
    const int rank = by_stride.divide(column);
    const float* place = shared.received_out + (item.rank * Shape::kRows + row) * own.stride +
                         column - rank * own.stride;
    ptx::send(ptx::peer_address(place, rank), ptx::peer_address(&shared.out_received, rank),
              *reinterpret_cast<const float4*>(&shared.block_out[row][column]));
  }
}

// ---- the merge of blocks and of clusters ----

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFF, value, lanes));
  }
  return value;
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(0xFFFFFFFF, value, lanes);
  }
  return value;
}

// The merge of partial softmaxes, once for the blocks of a cluster and once for the clusters
// of an item. A Source gives stats(partial, row) and out<kWidth>(partial, row, column) of
// num_partials, at most kMostPartials, whose outputs are divided by their sums if
// kIsNormalized.
//
// This half leaves the weights, such that the weighted sum of outputs is the merged output,
// divided by the merged sum, and calls done(row, merged stats). A row without keys has sum 0
// and weights 0.
template <int kRows, typename Source, typename Done>
__device__ __forceinline__ void merge_stats(MergeScratch<kRows>& scratch, const Source& source,
                                            int num_rows, int thread, const Done& done) {
  constexpr int kPerLane = (Source::kMostPartials + 31) / 32;
  const int lane = thread % 32;
  for (int row = thread / 32; row < num_rows; row += kConsumerWarps) {
    float2 stats[kPerLane];
    float most = kNoMax;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int partial = 32 * i + lane;
      stats[i] = {kNoMax, 0};
      if (partial < source.num_partials) stats[i] = source.stats(partial, row);
      most = fmaxf(most, stats[i].x);
    }
    most = warp_max(most);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) sum += ptx::exp2(stats[i].x - most) * stats[i].y;
    sum = warp_sum(sum);
    const float inverse = sum > 0 ? __fdividef(1, sum) : 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int partial = 32 * i + lane;
      const float own = ptx::exp2(stats[i].x - most) * (Source::kIsNormalized ? stats[i].y : 1);
      if (partial < source.num_partials) scratch.weights[partial][row] = own * inverse;
    }
    if (lane == 0) done(row, float2{most, sum});
  }
  sync_consumers();
}

template <int kWidth>
struct Floats {
  float values[kWidth];
};

template <int kWidth>
__device__ __forceinline__ Floats<kWidth> load_floats(const float* place) {
  if constexpr (kWidth == 4) {
    const float4 vector = *reinterpret_cast<const float4*>(place);
    return {vector.x, vector.y, vector.z, vector.w};
  } else if constexpr (kWidth == 2) {
    const float2 vector = *reinterpret_cast<const float2*>(place);
    return {vector.x, vector.y};
  } else {
    return {*place};
  }
}

// The other half: store(row, column, output) for every kWidth elements of rows of num_cols.
// Partials are added in order.
template <int kWidth, int kRows, typename Source, typename Store>
__device__ __forceinline__ void merge_outs(const MergeScratch<kRows>& scratch, const Source& source,
                                           int num_rows, int num_cols, int thread,
                                           const Store& store) {
  const Divisor by_cols(max(num_cols, 2));
#pragma unroll Source::kItemsInFlight
  for (int i = kWidth * thread; i < num_rows * num_cols; i += kWidth * kConsumerThreads) {
    const int row = by_cols.divide(i), column = i - row * num_cols;
    Floats<kWidth> sum = {};
#pragma unroll Source::kInFlight
    for (int partial = 0; partial < source.num_partials; ++partial) {
      const float weight = scratch.weights[partial][row];
      const auto out = source.template out<kWidth>(partial, row, column);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) sum.values[e] += weight * out.values[e];
    }
    store(row, column, sum);
  }
}

// As wide as leaves no thread without work.
template <int kRows, typename Source, typename Store>
__device__ __forceinline__ void merge_outs(const MergeScratch<kRows>& scratch, const Source& source,
                                           int num_rows, int num_cols, int thread,
                                           const Store& store) {
  const int size = num_rows * num_cols;
  if (size <= kConsumerThreads) {
    merge_outs<1>(scratch, source, num_rows, num_cols, thread, store);
  } else if (size <= 2 * kConsumerThreads) {
    merge_outs<2>(scratch, source, num_rows, num_cols, thread, store);
  } else {
    merge_outs<4>(scratch, source, num_rows, num_cols, thread, store);
  }
}

// The results of this block alone, in shared memory.
template <typename Shape>
struct OwnResult {
  static constexpr int kMostPartials = 1, kInFlight = 1, kItemsInFlight = 4;
  static constexpr bool kIsNormalized = false;
  static constexpr int num_partials = 1;

  const SwapShared<Shape>& shared;

  __device__ __forceinline__ float2 stats(int, int row) const { return block_stats(shared, row); }
  template <int kWidth>
  __device__ __forceinline__ Floats<kWidth> out(int, int row, int column) const {
    return load_floats<kWidth>(&shared.block_out[row][column]);
  }
};

// This block's slice of the results of the cluster's blocks, in shared memory.
template <typename Shape>
struct BlockPartials {
  static constexpr int kMostPartials = kMostBlocks, kInFlight = 8, kItemsInFlight = 1;
  static constexpr bool kIsNormalized = false;

  const SwapShared<Shape>& shared;
  int num_partials, slice_stride;

  __device__ __forceinline__ float2 stats(int partial, int row) const {
    return shared.merge.received_stats[partial][row];
  }
  template <int kWidth>
  __device__ __forceinline__ Floats<kWidth> out(int partial, int row, int column) const {
    return load_floats<kWidth>(shared.received_out + (partial * Shape::kRows + row) * slice_stride +
                               column);
  }
};

// This block's slice of the results of the item's clusters, in the workspace.
template <typename Shape>
struct ClusterPartials {
  static constexpr int kMostPartials = kMostClusters, kInFlight = 8, kItemsInFlight = 1;
  static constexpr bool kIsNormalized = true;

  float2* all_stats;  // [clusters, kRows], of this block alone
  float* all_out;     // [clusters, kRows, V], from the slice's first element
  int num_partials;

  __device__ __forceinline__ ClusterPartials(const DecodeArgs& args, const SwapItem& item,
                                             const Slice& slice, int num_partials)
      : num_partials(num_partials) {
    const std::int64_t block =
        static_cast<std::int64_t>(item.index) * item.cluster_size + item.rank;
    const std::int64_t first_row =
        static_cast<std::int64_t>(item.index) * args.num_clusters * Shape::kRows;
    all_stats = args.partial_stats + block * args.num_clusters * Shape::kRows;
    all_out = args.partial_out + first_row * Shape::kVSize + slice.begin;
  }
  __device__ __forceinline__ float* out_place(int partial, int row, int column) const {
    return all_out + (partial * Shape::kRows + row) * Shape::kVSize + column;
  }
  __device__ __forceinline__ void put_stats(int partial, int row, float2 stats) const {
    all_stats[partial * Shape::kRows + row] = stats;
  }
  template <int kWidth>
  __device__ __forceinline__ void put_out(int partial, int row, int column,
                                          const Floats<kWidth>& out) const {
    float* place = out_place(partial, row, column);
    if constexpr (kWidth == 4) {
      *reinterpret_cast<float4*>(place) = {out.values[0], out.values[1], out.values[2],
                                           out.values[3]};
    } else {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) place[e] = out.values[e];
    }
  }
  // Other multiprocessors wrote them: past the L1.
  __device__ __forceinline__ float2 stats(int partial, int row) const {
    return __ldcg(all_stats + partial * Shape::kRows + row);
  }
  template <int kWidth>
  __device__ __forceinline__ Floats<kWidth> out(int partial, int row, int column) const {
    const float* place = out_place(partial, row, column);
    Floats<kWidth> result;
    if constexpr (kWidth == 4) {
      const float4 vector = __ldcg(reinterpret_cast<const float4*>(place));
      result = {vector.x, vector.y, vector.z, vector.w};
    } else {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) result.values[e] = __ldcg(place + e);
    }
    return result;
  }
};

// Where this block's slice of the result goes.
template <typename Shape>
struct ResultSlice {
  const DecodeArgs& args;
  const SwapItem& item;
  int first_column;

  __device__ __forceinline__ void put_lse(int row, float2 total) const {
    if (args.lse == nullptr || item.rank != 0) return;
    constexpr float kLn2 = 0.693147180559945f;
    const RowPlace place = place_of(args, item, row);
    args.lse[place.token * args.num_heads + place.head] =
        total.y > 0 ? (total.x + log2f(total.y)) * kLn2 : -INFINITY;
  }
  template <int kWidth>
  __device__ __forceinline__ void put_out(int row, int column, const Floats<kWidth>& out) const {
    using Element = typename Shape::Element;
    const RowPlace place = place_of(args, item, row);
    Element* to = static_cast<Element*>(args.out) + place.token * args.out_token_stride +
                  place.head * args.out_head_stride + first_column + column;
    if constexpr (kWidth == 4) {
      *reinterpret_cast<uint2*>(to) = {pack<Element>(out.values[0], out.values[1]),
                                       pack<Element>(out.values[2], out.values[3])};
    } else if constexpr (kWidth == 2) {
      *reinterpret_cast<std::uint32_t*>(to) = pack<Element>(out.values[0], out.values[1]);
    } else {
      *to = static_cast<Element>(out.values[0]);
    }
  }
};

// Whether this block's slice of all clusters with pages is in the workspace, and this block
// the last to have brought it.
__device__ __forceinline__ bool is_last_cluster(const DecodeArgs& args, const SwapItem& item,
                                                int num_clusters, int thread) {
  sync_consumers();
  bool is_last = false;
  if (thread == 0) {
    __threadfence();  // for all threads of the block, after the barrier
    // Counts up to num_clusters - 1 and back to 0, ready for the next launch.
    std::uint32_t* counter = args.counters + item.index * item.cluster_size + item.rank;
    const unsigned last = num_clusters - 1;
    is_last = atomicInc(counter, last) == last;
    __threadfence();
  }
  return ptx::sync_any(kAllConsumers, kConsumerThreads, is_last);
}

// Merges the block's slice of `source`, in shared memory, to the result, or by way of the
// workspace if the item has several clusters.
template <typename Shape, typename Source, typename AwaitOuts>
__device__ __forceinline__ void finish(const DecodeArgs& args, SwapShared<Shape>& shared,
                                       const SwapItem& item, const SwapWork& work,
                                       const Slice& slice, int thread, const Source& source,
                                       const AwaitOuts& await_outs) {
  auto& scratch = shared.merge;
  const ResultSlice<Shape> result = {args, item, slice.begin};
  const auto put_lse = [&](int row, float2 total) { result.put_lse(row, total); };
  const auto put_out = [&](int row, int column, const auto& out) {
    result.put_out(row, column, out);
  };

  if (work.num_clusters == 1) {
    merge_stats(scratch, source, item.num_rows, thread, put_lse);
    await_outs();
    merge_outs(scratch, source, item.num_rows, slice.size, thread, put_out);
    return;
  }
  const ClusterPartials<Shape> clusters(args, item, slice, work.num_clusters);
  merge_stats(scratch, source, item.num_rows, thread,
              [&](int row, float2 total) { clusters.put_stats(item.cluster, row, total); });
  await_outs();
  merge_outs(scratch, source, item.num_rows, slice.size, thread,
             [&](int row, int column, const auto& out) {
               clusters.put_out(item.cluster, row, column, out);
             });
  if (!is_last_cluster(args, item, work.num_clusters, thread)) return;
  merge_stats(scratch, clusters, item.num_rows, thread, put_lse);
  merge_outs(scratch, clusters, item.num_rows, slice.size, thread, put_out);
}

// ---- the kernel ----

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
    if (thread < 32) produce_pages(args, shared, item, thread);
    return;
  }
  if constexpr (Shape::kRows > 16) ptx::grow_registers<232>();
  const ConsumerThread self = {warpgroup, thread, thread / 32, thread % 32};

  ptx::wait_for_previous_kernel();
  ptx::allow_next_kernel();
  const Queries<Shape> queries(args, item, threadIdx.x);
  const SwapWork work = find_work(args, item);
  if (item.cluster >= work.num_clusters) return;
  store_windows(args, shared, item, work.length, threadIdx.x);
  queries.store(shared, threadIdx.x);
  ptx::fence_async_proxy();
  sync_consumers();

  SwapState<Shape> state;
  consume_pages(state, args, shared, work, self);
  merge_consumers(state, shared, item, work, self);
  const Slice slice = slice_of<Shape>(item.cluster_size, item.rank);
  if (item.cluster_size == 1) {
    const OwnResult<Shape> own = {shared};
    finish(args, shared, item, work, slice, threadIdx.x, own, [] {});
    return;
  }
  // The blocks of the cluster have made room for each other's results.
  ptx::cluster_wait();
  send_slices(shared, item, slice, threadIdx.x);
  const BlockPartials<Shape> blocks = {shared, item.cluster_size, slice.stride};
  ptx::wait(&shared.stats_received, 0);
  finish(args, shared, item, work, slice, threadIdx.x, blocks,
         [&] { ptx::wait(&shared.out_received, 0); });
}

}  // namespace loza::attention::cuda
