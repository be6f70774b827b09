#pragma once

#include "loza/attention/cuda/sm90/rows_shape.cuh"
#include "loza/attention/cuda/sm90/swap_consumer.cuh"

// The consumers of the rows kernel: two warpgroups that share 64 query rows and every page.
// Each holds one half of the output elements.
namespace loza::attention::cuda {

// A page of the block's share.
struct RowsPage {
  int begin, stage, use;
};

// Q on its way from memory to shared memory, as the swap kernel's Queries: a thread has the same
// chunk of every sub-tile of a few rows, so that what it loads and stores lies at fixed distances.
template <typename Shape>
struct RowsQueries {
  using Element = typename Shape::Element;
  static constexpr int kTileChunks = kRowBytes / kChunkBytes;  // of a row
  static constexpr int kRowStep = kConsumerThreads / kTileChunks;
  static constexpr int kRowsOfThread = Shape::kRows / kRowStep;
  static_assert(kRowStep % kSwizzleRows == 0, "so that chunks keep their place in a row");

  std::int64_t from[kRowsOfThread];  // element of args.q; negative past the last row
  int to;                            // bytes from a sub-tile of shared.q
  uint4 chunks[kRowsOfThread][Shape::kQkTiles];

  __device__ __forceinline__ RowsQueries(const DecodeArgs& args, const SwapItem& item, int thread) {
    const int chunk = thread % kTileChunks;
    to = chunk_offset(thread / kTileChunks, chunk);
#pragma unroll
    for (int r = 0; r < kRowsOfThread; ++r) {
      const int row = thread / kTileChunks + r * kRowStep;
      const RowPlace place = place_of(args, item, row);
      from[r] = row < item.num_rows ? place.token * args.q_token_stride +
                                          place.head * args.q_head_stride + 8 * chunk
                                    : -1;
      ptx::compute_now(from[r]);
    }
    ptx::compute_now(to);
  }
  // Into the L2, where what the previous kernel still writes of them is seen: each of the threads
  // of a row a sub-tile's line, and the first that of the last sub-tile.
  __device__ __forceinline__ void prefetch(const DecodeArgs& args, int thread) const {
    static_assert(Shape::kQkTiles == kTileChunks + 1);
    const auto* elements = static_cast<const Element*>(args.q);
    const int tile = thread % kTileChunks, chunk = tile;
#pragma unroll
    for (int r = 0; r < kRowsOfThread; ++r) {
      if (from[r] < 0) continue;
      const Element* row = elements + from[r] - 8 * chunk;
      ptx::prefetch_line(row + kSubTileCols * tile);
      if (tile == 0) ptx::prefetch_line(row + kSubTileCols * kTileChunks);
    }
  }
  __device__ __forceinline__ void load(const DecodeArgs& args) {
    const auto* elements = static_cast<const Element*>(args.q);
#pragma unroll
    for (int r = 0; r < kRowsOfThread; ++r) {
#pragma unroll
      for (int t = 0; t < Shape::kQkTiles; ++t) {
        chunks[r][t] = {0, 0, 0, 0};
        if (from[r] < 0) continue;
        chunks[r][t] = *reinterpret_cast<const uint4*>(elements + from[r] + kSubTileCols * t);
      }
    }
  }
  __device__ __forceinline__ void store(RowsShared<Shape>& shared) const {
#pragma unroll
    for (int r = 0; r < kRowsOfThread; ++r) {
#pragma unroll
      for (int t = 0; t < Shape::kQkTiles; ++t) {
        *reinterpret_cast<uint4*>(shared.q[t] + to + r * kRowStep * kRowBytes) = chunks[r][t];
      }
    }
  }
};

template <typename Shape>
struct RowsConsumer {
  using Element = typename Shape::Element;
  static constexpr int kKeyGroups = kPageLen / 8;
  using Scores = float[kPageLen / 2];
  using Fragments = std::uint32_t[kStepsPerSubTile][4];
  using Factors = float[2];

  const DecodeArgs& args;
  RowsShared<Shape>& shared;
  const SwapWork& work;
  const ConsumerThread self;
  int newest_recent;
  float out[Shape::kColumns / 2];
  float max[2];  // the reference that exponents are relative to, in log2: the same in both
  float sum[2];  // of the keys that this thread has exponentiated

  __device__ __forceinline__ RowsConsumer(const DecodeArgs& args, RowsShared<Shape>& shared,
                                          const SwapWork& work, const ConsumerThread& self)
      : args(args), shared(shared), work(work), self(self) {
    newest_recent = work.length > 0 ? args.pattern.recent_begin(work.length - 1) : 0;
#pragma unroll
    for (float& value : out) value = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      max[half] = kNoMax;
      sum[half] = 0;
    }
  }

  // Query rows and keys of the thread's fragments.
  __device__ __forceinline__ int row(int half) const {
    return 16 * self.warp + self.lane / 4 + 8 * half;
  }
  __device__ __forceinline__ int column(int group, int e) const {
    return 8 * group + 2 * (self.lane % 4) + e;
  }
  static __device__ __forceinline__ constexpr int index(int group, int half, int e) {
    return 4 * group + 2 * half + e;
  }

  __device__ __forceinline__ RowsPage page(int i) const {
    return {work.visible.page(work.pages.begin + i) * kPageLen, i % Shape::kStages,
            i / Shape::kStages};
  }
  __device__ __forceinline__ void await_part(const RowsPage& page, int part) {
    ptx::wait(&shared.full[page.use % 2][page.stage][part], page.use / 2 % 2);
  }
  __device__ __forceinline__ void release(const RowsPage& page) {
    if (self.lane != 0) return;
#pragma unroll
    for (int part = 0; part < Shape::kParts; ++part) {
      const bool reads =
          self.consumer == 0 ? Shape::reads_part(0, part) : Shape::reads_part(1, part);
      if (reads) ptx::arrive(&shared.empty[page.stage][part]);
    }
  }

  // ---- the page's owner: from scores to P ----

  // S [64, 64 keys] = Q K^T.
  __device__ __forceinline__ void begin_score(const RowsPage& page, Scores& scores) {
    const Descriptor keys = sub_tile_descriptor(ptx::shared_address(shared.pages[page.stage]));
    const Descriptor queries = sub_tile_descriptor(ptx::shared_address(shared.q));
#pragma unroll
    for (int part = 0; part < Shape::kKeyParts; ++part) {
      await_part(page, part);
      wgmma_begin();
#pragma unroll
      for (int t = part * Shape::kTilesPerKeyPart; t < (part + 1) * Shape::kTilesPerKeyPart; ++t) {
#pragma unroll
        for (int step = 0; step < kStepsPerSubTile; ++step) {
          const int offset = step * kRowOperandStep;
          wgmma<Element, Operand::kRows>(scores, queries + (t * Shape::kQSubTileBytes + offset),
                                         keys + (t * Shape::kSubTileBytes + offset), t + step > 0);
        }
      }
    }
    wgmma_commit();
  }
  // In log2, hidden keys at -inf.
  __device__ __forceinline__ void end_score(const RowsPage& page, Scores& scores) {
    wgmma_finish(scores);
#pragma unroll
    for (float& value : scores) value *= args.scale_log2;
    if (needs_mask(args, work, page.begin, newest_recent)) mask(page, scores);
  }

  __device__ __forceinline__ void mask(const RowsPage& page, Scores& scores) const {
    const int sink_len = args.pattern.sink_len();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int pos = shared.row_pos[row(half)], recent = shared.row_recent[row(half)];
#pragma unroll
      for (int group = 0; group < kKeyGroups; ++group) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int key = page.begin + column(group, e);
          const bool visible = key <= pos && (key < sink_len || key >= recent);
          if (!visible) scores[index(group, half, e)] = -INFINITY;
        }
      }
    }
  }

  // P = exp2(S - max) in registers and, for the other consumer, in shared memory, with the
  // reference that it is relative to. `factors` bring earlier results to that reference.
  __device__ __forceinline__ void publish(const RowsPage& page, Scores& scores, Fragments& p,
                                          Factors& factors) {
    constexpr float kLag = 8;  // as in the swap kernel
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = -INFINITY;
#pragma unroll
      for (int group = 0; group < kKeyGroups; ++group) {
        most = fmaxf(most, fmaxf(scores[index(group, half, 0)], scores[index(group, half, 1)]));
      }
      most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFF, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFF, most, 2));
      move_max(half, most > max[half] + kLag ? most : max[half], factors);
      if (self.lane % 4 == 0) shared.page_max[page.stage][row(half)] = max[half];
    }
#pragma unroll
    for (int group = 0; group < kKeyGroups; ++group) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float values[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          values[e] = ptx::exp2(scores[index(group, half, e)] - max[half]);
          sum[half] += values[e];
        }
        p[group / 2][group % 2 * 2 + half] = pack<Element>(values[0], values[1]);
      }
    }
    std::uint8_t* const bytes = shared.pages[page.stage];
    if (page.begin + kPageLen > work.length) {
      const auto value_tile = [&](int t) { return bytes + t * Shape::kSubTileBytes; };
      clear_values<Shape>(value_tile, work.length - page.begin, self.thread);
      ptx::fence_async_proxy();
    }
    // All warps are done with the keys, whose place P takes.
    ptx::sync(self.barrier(), Shape::kWarpgroup);
    const std::uint32_t tile = ptx::shared_address(bytes + Shape::kPTile * Shape::kSubTileBytes);
    const int p_row = 16 * self.warp + self.lane % 16;
#pragma unroll
    for (int step = 0; step < kStepsPerSubTile; ++step) {
      ptx::store_matrices(tile + chunk_offset(p_row, 2 * step + self.lane / 16), p[step]);
    }
    ptx::fence_async_proxy();
    ptx::arrive_at(kPReady0 + page.stage, kConsumerThreads);
  }

  __device__ __forceinline__ void move_max(int half, float to, Factors& factors) {
    factors[half] = ptx::exp2(max[half] - to);
    sum[half] *= factors[half];
    max[half] = to;
  }

  // The other consumer's page: its P is there; takes over its reference.
  __device__ __forceinline__ void adopt(const RowsPage& page, Factors& factors) {
    ptx::sync(kPReady0 + page.stage, kConsumerThreads);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      move_max(half, shared.page_max[page.stage][row(half)], factors);
    }
  }

  // ---- O += P V, this consumer's half ----

  __device__ __forceinline__ void rescale(const Factors& factors) {
    if (!__any_sync(0xFFFFFFFF, factors[0] != 1 || factors[1] != 1)) return;
#pragma unroll
    for (int group = 0; group < Shape::kColumns / 8; ++group) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int e = 0; e < 2; ++e) out[index(group, half, e)] *= factors[half];
      }
    }
  }

  __device__ __forceinline__ Descriptor values_of(const RowsPage& page) const {
    const int first_tile = self.consumer * (Shape::kVTiles / Shape::kConsumers);
    return sub_tile_descriptor(
        ptx::shared_address(shared.pages[page.stage] + first_tile * Shape::kSubTileBytes),
        Shape::kSubTileBytes);
  }

  __device__ __forceinline__ void add_own(const RowsPage& page, const Fragments& p,
                                          const Factors& factors) {
    rescale(factors);
    const Descriptor values = values_of(page);
    wgmma_begin();
#pragma unroll
    for (int step = 0; step < kStepsPerSubTile; ++step) {
      wgmma_of_fragment<Element>(out, p[step], values + step * kColumnOperandStep, true);
    }
    wgmma_commit();
    wgmma_finish(out);
    release(page);
  }

  __device__ __forceinline__ void begin_add_other(const RowsPage& page, const Factors& factors) {
    rescale(factors);
#pragma unroll
    for (int part = 0; part < Shape::kKeyParts; ++part) await_part(page, part);
    const Descriptor values = values_of(page);
    const Descriptor p = sub_tile_descriptor(
        ptx::shared_address(shared.pages[page.stage] + Shape::kPTile * Shape::kSubTileBytes));
    wgmma_begin();
#pragma unroll
    for (int step = 0; step < kStepsPerSubTile; ++step) {
      wgmma<Element, Operand::kRows, Operand::kColumns>(out, p + step * kRowOperandStep,
                                                        values + step * kColumnOperandStep, true);
    }
    wgmma_commit();
  }
  __device__ __forceinline__ void end_add_other(const RowsPage& page) {
    wgmma_finish(out);
    release(page);
  }

  __device__ __forceinline__ void attend_own(const RowsPage& own) {
    Scores scores;
    Fragments p;
    Factors factors;
    begin_score(own, scores);
    end_score(own, scores);
    publish(own, scores, p, factors);
    add_own(own, p, factors);
  }

  __device__ __forceinline__ void attend_other(const RowsPage& other) {
    Factors factors;
    adopt(other, factors);
    begin_add_other(other, factors);
    end_add_other(other);
  }

  // ---- pages in pairs: consumer 0 owns the first of a pair, consumer 1 the second ----
  //
  __device__ __forceinline__ void attend_as_first(int begin, int end) {
    for (int i = begin; i < end; i += 2) {
      attend_own(page(i));
      if (i + 1 < end) attend_other(page(i + 1));
    }
  }

  // Its scores do not wait for the other's P; its exponentials pass beside the other's page.
  __device__ __forceinline__ void attend_as_second(int begin, int end) {
    int i = begin + 1;
    for (; i < end; i += 2) {
      const RowsPage other = page(i - 1), own = page(i);
      Factors factors;
      Scores scores;
      Fragments p;
      begin_score(own, scores);
      end_score(own, scores);
      adopt(other, factors);
      begin_add_other(other, factors);
      publish(own, scores, p, factors);
      end_add_other(other);
      add_own(own, p, factors);
    }
    if (i == end) attend_other(page(i - 1));
  }

  // Pages [begin, end) of the share.
  __device__ __forceinline__ void attend(int begin, int end) {
    if (begin == end) return;
    if (self.consumer == 0) {
      attend_as_first(begin, end);
    } else {
      attend_as_second(begin, end);
    }
  }

  // ---- the end of a block ----

  __device__ __forceinline__ void share_stats() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sum[half];
      total += __shfl_xor_sync(0xFFFFFFFF, total, 1);
      total += __shfl_xor_sync(0xFFFFFFFF, total, 2);
      if (self.lane % 4 == 0) {
        shared.sum[self.consumer][row(half)] = total;
        if (self.consumer == 0) shared.max[row(half)] = max[half];
      }
    }
  }

  // What the thread holds of a group of 8 columns of sub-tile `tile` of the half: two of its upper
  // row, two of its lower.
  __device__ __forceinline__ float4 out_of(int tile, int group) const {
    const int i = index(8 * tile + group, 0, 0);
    return {out[i], out[i + 1], out[i + 2], out[i + 3]};
  }

  __device__ __forceinline__ void scale_tile(int tile, const float (&factors)[2]) {
#pragma unroll
    for (int group = 8 * tile; group < 8 * (tile + 1); ++group) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int e = 0; e < 2; ++e) out[index(group, half, e)] *= factors[half];
      }
    }
  }
  // Adds what another thread holds of the same group.
  __device__ __forceinline__ void add_to(int tile, int group, const float (&factors)[2],
                                         const float4& more) {
    const int i = index(8 * tile + group, 0, 0);
    out[i] += factors[0] * more.x;
    out[i + 1] += factors[0] * more.y;
    out[i + 2] += factors[1] * more.z;
    out[i + 3] += factors[1] * more.w;
  }
};

}  // namespace loza::attention::cuda
