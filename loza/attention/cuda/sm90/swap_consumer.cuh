#pragma once

#include "loza/attention/cuda/sm90/swap_shape.cuh"

// The consumers of the swap kernel, a warpgroup each: pages from scores to output.
namespace loza::attention::cuda {

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

// Where a row's queries lie.
struct QuerySource {
  const void* data;
  std::int64_t token_stride, head_stride;
};

__device__ __forceinline__ QuerySource queries_of(const DecodeArgs& args) {
  return {args.q, args.q_token_stride, args.q_head_stride};
}
__device__ __forceinline__ QuerySource sink_queries_of(const DecodeArgs& args) {
  return {args.sink_q, args.sink_q_token_stride, args.sink_q_head_stride};
}

// A chunk of 16 bytes of the queries, dealt to the consumers' threads in rounds.
template <typename Shape>
struct QueryChunk {
  static constexpr int kChunks = Shape::kQkSize * 2 / kChunkBytes;
  static constexpr int kRounds = (Shape::kRows * kChunks + kConsumerThreads - 1) / kConsumerThreads;

  int row, chunk;

  static __device__ __forceinline__ QueryChunk of_round(int round, int thread) {
    const int i = round * kConsumerThreads + thread;
    return {i / kChunks, i % kChunks};
  }

  // The first of a row's chunks; null past the last row.
  static __device__ __forceinline__ const uint4* row_source(const DecodeArgs& args,
                                                            const SwapItem& item,
                                                            const QuerySource& from, int row) {
    using Element = typename Shape::Element;
    if (row >= item.num_rows) return nullptr;
    const RowPlace place = place_of(args, item, row);
    return reinterpret_cast<const uint4*>(static_cast<const Element*>(from.data) +
                                          place.token * from.token_stride +
                                          place.head * from.head_stride);
  }
  // Zeros past the last row.
  __device__ __forceinline__ uint4 load(const uint4* row_source) const {
    return row_source == nullptr ? uint4{0, 0, 0, 0} : row_source[chunk];
  }
  __device__ __forceinline__ uint4 load(const DecodeArgs& args, const SwapItem& item,
                                        const QuerySource& from) const {
    return load(row_source(args, item, from, row));
  }
  template <typename Shared>
  __device__ __forceinline__ void store(Shared& shared, const uint4& value) const {
    if (row >= Shape::kRows) return;
    *reinterpret_cast<uint4*>(shared.q[chunk / 8] + chunk_offset(row, chunk % 8)) = value;
  }
};

// Q on its way from memory to shared memory. Where from and where to is found before the previous
// kernel has ended; requested before anything else, lest it queue behind the pages of all blocks.
template <typename Shape>
struct Queries {
  static constexpr int kRounds = QueryChunk<Shape>::kRounds;

  std::int64_t from[kRounds];  // element of args.q; negative past the last row
  int to[kRounds];             // bytes from shared.q; negative past kRows
  uint4 chunks[kRounds];

  __device__ __forceinline__ Queries(const DecodeArgs& args, const SwapItem& item, int thread) {
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const auto at = QueryChunk<Shape>::of_round(round, thread);
      const RowPlace place = place_of(args, item, at.row);
      from[round] = at.row < item.num_rows ? place.token * args.q_token_stride +
                                                 place.head * args.q_head_stride + 8 * at.chunk
                                           : -1;
      to[round] = at.row < Shape::kRows
                      ? at.chunk / 8 * Shape::kQSubTileBytes + chunk_offset(at.row, at.chunk % 8)
                      : -1;
      ptx::compute_now(from[round]);
      ptx::compute_now(to[round]);
    }
  }
  // Into the L2, where what the previous kernel still writes of them is seen.
  __device__ __forceinline__ void prefetch(const DecodeArgs& args) const {
    const auto* elements = static_cast<const typename Shape::Element*>(args.q);
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      if (from[round] >= 0) ptx::prefetch_line(elements + from[round]);
    }
  }
  __device__ __forceinline__ void load(const DecodeArgs& args) {
    const auto* elements = static_cast<const typename Shape::Element*>(args.q);
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      chunks[round] = {0, 0, 0, 0};
      if (from[round] >= 0) chunks[round] = *reinterpret_cast<const uint4*>(elements + from[round]);
    }
  }
  template <typename Shared>
  __device__ __forceinline__ void store(Shared& shared) const {
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      if (to[round] >= 0) *reinterpret_cast<uint4*>(shared.q[0] + to[round]) = chunks[round];
    }
  }
};

// The same beside a state that leaves few registers; source(row) is where the row's queries lie.
template <typename Shape, typename Shared, typename Source>
__device__ __forceinline__ void copy_queries(const DecodeArgs& args, Shared& shared,
                                             const SwapItem& item, int thread,
                                             const Source& source) {
#pragma unroll 1
  for (int round = 0; round < QueryChunk<Shape>::kRounds; ++round) {
    const auto chunk = QueryChunk<Shape>::of_round(round, thread);
    chunk.store(shared, chunk.load(args, item, source(chunk.row)));
  }
}

// Position of a row's query; rows past the last count as the last.
__device__ __forceinline__ int pos_of(const DecodeArgs& args, const SwapItem& item, int length,
                                      int row) {
  const int group_row = item.first_row + min(row, item.num_rows - 1);
  const int token = args.q_len == 1 ? 0 : group_row / args.group_size;
  return length - args.q_len + token;
}

// The window of the query of each row.
template <typename Shape, typename Shared>
__device__ __forceinline__ void store_windows(const DecodeArgs& args, Shared& shared,
                                              const SwapItem& item, int length, int thread) {
  if (thread >= Shape::kRows) return;
  const int pos = pos_of(args, item, length, thread);
  shared.row_pos[thread] = pos;
  shared.row_recent[thread] = pos < 0 ? 0 : args.pattern.recent_begin(pos);
}

// Those of the share's pages, its first, that rows may see by their sink queries.
__device__ __forceinline__ int num_pages_by_sink_query(const DecodeArgs& args,
                                                       const SwapWork& work) {
  if (args.sink_q == nullptr) return 0;
  const int num_sink_pages = args.pattern.sink_len() / kPageLen;
  return min(max(num_sink_pages - work.pages.begin, 0), work.pages.size);
}

// The queries that score the sink: a row that sees it apart from its recent keys has one for it.
template <typename Shape, typename Shared>
__device__ __forceinline__ void store_sink_queries(const DecodeArgs& args, Shared& shared,
                                                   const SwapItem& item, int length, int thread) {
  const auto source = [&](int row) {
    const int pos = pos_of(args, item, length, row);
    const bool sees_apart = pos >= 0 && args.pattern.recent_begin(pos) > 0;
    return sees_apart ? sink_queries_of(args) : queries_of(args);
  };
  copy_queries<Shape>(args, shared, item, thread, source);
}

// Sub-tile t of the page whose parts lie at `at`: those of the key, then those of a value apart.
template <typename Shape>
__device__ __forceinline__ std::uint8_t* sub_tile(SwapShared<Shape>& shared,
                                                  const PartCursor<Shape>& at, int t) {
  return shared.parts[(at + t / Shape::kTilesPerPart).slot] +
         t % Shape::kTilesPerPart * Shape::kSubTileBytes;
}

template <typename Shape>
__device__ __forceinline__ Descriptor part_descriptor(const SwapShared<Shape>& shared,
                                                      const PartCursor<Shape>& part) {
  return sub_tile_descriptor(ptx::shared_address(shared.parts[part.slot]));
}

template <typename Shape>
__device__ __forceinline__ void await_part(SwapShared<Shape>& shared,
                                           const PartCursor<Shape>& part) {
  ptx::wait(&shared.full[part.use % 2][part.slot], part.use / 2 % 2);
}

// S^T [64 keys, kRows] = K Q^T, part by part as the page arrives.
template <typename Shape>
__device__ __forceinline__ void multiply_keys(float (&scores)[Shape::kRows / 2],
                                              SwapShared<Shape>& shared,
                                              const PartCursor<Shape>& at) {
  const Descriptor queries = sub_tile_descriptor(ptx::shared_address(shared.q));
#pragma unroll
  for (int part = 0; part < Shape::kKeyParts; ++part) {
    const Descriptor keys = part_descriptor(shared, at + part);
    await_part(shared, at + part);
    wgmma_begin();
#pragma unroll
    for (int t = 0; t < Shape::kTilesPerPart; ++t) {
      const int query_tile = part * Shape::kTilesPerPart + t;
#pragma unroll
      for (int step = 0; step < kStepsPerSubTile; ++step) {
        wgmma<typename Shape::Element, Operand::kRows>(
            scores, keys + (t * Shape::kSubTileBytes + step * kRowOperandStep),
            queries + (query_tile * Shape::kQSubTileBytes + step * kRowOperandStep),
            query_tile + step > 0);
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
                                            const ConsumerThread& self, const DecodeArgs& args,
                                            const SwapWork& work, int page_begin) {
  const int sink_len = args.pattern.sink_len();
  const bool one_query = args.q_len == 1;
#pragma unroll
  for (int c = 0; c < Shape::kRows / 4; ++c) {
    const int pos = one_query ? work.length - 1 : shared.row_pos[self.row(c)];
    const int recent = one_query ? work.newest_recent : shared.row_recent[self.row(c)];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int key = page_begin + self.key(half);
      const bool visible = key <= pos && (key < sink_len || key >= recent);
      if (!visible) scores[fragment_index(c, half)] = -INFINITY;
    }
  }
}

// V rows past the length may hold anything; P is 0 there. value_tile(t) is sub-tile t of V.
template <typename Shape, typename ValueTile>
__device__ __forceinline__ void clear_values(const ValueTile& value_tile, int first_row,
                                             int thread) {
  constexpr int kChunks = Shape::kVTiles * 8;
  for (int i = thread; i < (kPageLen - first_row) * kChunks; i += Shape::kWarpgroup) {
    const int row = first_row + i / kChunks, chunk = i % kChunks;
    *reinterpret_cast<uint4*>(value_tile(chunk / 8) + chunk_offset(row, chunk % 8)) = {0, 0, 0, 0};
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

// O^T [V, kRows] += V^T P^T. Gives the page's parts back as the products are done with them.
template <typename Shape>
__device__ __forceinline__ void multiply_values(SwapState<Shape>& state, SwapShared<Shape>& shared,
                                                const PartCursor<Shape>& at, int lane) {
  const Descriptor p =
      sub_tile_descriptor(ptx::shared_address(sub_tile(shared, at, Shape::kPTile)));
  const auto give_back = [&](int part) {
    if (lane == 0) ptx::arrive(&shared.empty[(at + part).slot]);
  };
  Descriptor parts[Shape::kParts];
#pragma unroll
  for (int part = 0; part < Shape::kParts; ++part) parts[part] = part_descriptor(shared, at + part);
  wgmma_begin();
#pragma unroll
  for (int t = 0; t < Shape::kVTiles; ++t) {
    constexpr int kTiles = Shape::kTilesPerPart;
    const int tile = Shape::kFirstVTile + t;
    const Descriptor values = parts[tile / kTiles] + tile % kTiles * Shape::kSubTileBytes;
#pragma unroll
    for (int step = 0; step < kStepsPerSubTile; ++step) {
      wgmma<typename Shape::Element, Operand::kColumns>(
          state.out[t], values + step * kColumnOperandStep, p + step * kRowOperandStep, true);
    }
    if ((t + 1) % Shape::kTilesPerPart == 0 || t + 1 == Shape::kVTiles) wgmma_commit();
  }
  if constexpr (Shape::kValueInKey && Shape::kParts == 3) {
    wgmma_wait<2>();
    give_back(0);
    wgmma_wait<1>();
    give_back(1);
    wgmma_finish(state.out);
    give_back(2);
  } else {
    wgmma_finish(state.out);
#pragma unroll
    for (int part = 0; part < Shape::kParts; ++part) give_back(part);
  }
}

// Where a consumer stands: at page i of the block's share.
template <typename Shape>
struct PageCursor {
  int i;
  PartCursor<Shape> parts;

  __device__ __forceinline__ explicit PageCursor(int consumer)
      : i(consumer), parts{consumer * Shape::kParts, 0} {}
};

// Every second page of the share up to page `end`, from scores to output. Before the last of the
// whole share it calls before_last().
template <typename Shape, typename BeforeLast>
__device__ __forceinline__ void consume_pages(SwapState<Shape>& state, PageCursor<Shape>& at,
                                              int end, const DecodeArgs& args,
                                              SwapShared<Shape>& shared, const SwapWork& work,
                                              const ConsumerThread& self,
                                              const BeforeLast& before_last) {
  // The reference may lag behind the maximum by a factor 2^8, which costs no accuracy: P and
  // its sum are floating point. So rescaling is rare after the first page.
  constexpr float kLag = 8;
  PartCursor<Shape> parts = at.parts;
  for (; at.i < end; at.i += Shape::kConsumers) {
    const int page_begin = work.visible.page(work.pages.begin + at.i) * kPageLen;
    if (at.i + Shape::kConsumers >= work.pages.size) before_last();

    float scores[Shape::kRows / 2];
    multiply_keys(scores, shared, parts);
#pragma unroll
    for (float& score : scores) score *= args.scale_log2;
    if (needs_mask(args, work, page_begin, work.newest_recent)) {
      mask_scores(scores, shared, self, args, work, page_begin);
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
    if constexpr (!Shape::kValueInKey) await_part(shared, parts + Shape::kKeyParts);
    if (page_begin + kPageLen > work.length) {
      const auto value_tile = [&](int t) {
        return sub_tile(shared, parts, Shape::kFirstVTile + t);
      };
      clear_values<Shape>(value_tile, work.length - page_begin, self.thread);
    }
    exponentiate(state, scores, sub_tile(shared, parts, Shape::kPTile), self);
    ptx::fence_async_proxy();
    ptx::sync(self.barrier(), Shape::kWarpgroup);
    multiply_values(state, shared, parts, self.lane);
    parts = parts + Shape::kConsumers * Shape::kParts;
  }
  at.parts = parts;
}

}  // namespace loza::attention::cuda
