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

// Q on its way from memory, as the swap kernel's Queries, but whole rows to warps: with 64 rows,
// where each chunk lies costs more to compute chunk by chunk than the memory takes. Warp w has rows
// w, w + 8, and so on: of each, two chunks a lane; what is left of four rows is one chunk a lane.
template <typename Shape>
struct RowsQueries {
  using Chunk = QueryChunk<Shape>;
  static constexpr int kWarps = kConsumerThreads / 32, kRowsOfWarp = Shape::kRows / kWarps;
  static constexpr int kWhole = Chunk::kChunks / 32, kRest = Chunk::kChunks % 32;
  static constexpr int kRestRows = 32 / kRest;
  static_assert(kRest > 0 && 32 % kRest == 0 && kRowsOfWarp % kRestRows == 0);

  uint4 whole[kRowsOfWarp][kWhole];
  uint4 rest[kRowsOfWarp / kRestRows];

  static __device__ __forceinline__ Chunk whole_chunk(int r, int i, int thread) {
    return {thread / 32 + kWarps * r, thread % 32 + 32 * i};
  }
  static __device__ __forceinline__ Chunk rest_chunk(int r, int thread) {
    const int lane = thread % 32;
    return {thread / 32 + kWarps * (r * kRestRows + lane / kRest), 32 * kWhole + lane % kRest};
  }

  __device__ __forceinline__ RowsQueries(const DecodeArgs& args, const SwapItem& item, int thread) {
    // Lane r finds where the warp's row r lies.
    const int lane = thread % 32;
    const auto own = reinterpret_cast<unsigned long long>(Chunk::row_source(
        args, item, queries_of(args), thread / 32 + kWarps * (lane % kRowsOfWarp)));
    const auto source_of = [&](int r) {
      return reinterpret_cast<const uint4*>(__shfl_sync(0xFFFFFFFF, own, r));
    };
#pragma unroll
    for (int r = 0; r < kRowsOfWarp; ++r) {
      const uint4* source = source_of(r);
#pragma unroll
      for (int i = 0; i < kWhole; ++i) whole[r][i] = whole_chunk(r, i, thread).load(source);
    }
#pragma unroll
    for (int r = 0; r < kRowsOfWarp / kRestRows; ++r) {
      const uint4* source = source_of(r * kRestRows + lane / kRest);
      rest[r] = rest_chunk(r, thread).load(source);
    }
  }
  __device__ __forceinline__ void store(RowsShared<Shape>& shared, int thread) const {
#pragma unroll
    for (int r = 0; r < kRowsOfWarp; ++r) {
#pragma unroll
      for (int i = 0; i < kWhole; ++i) whole_chunk(r, i, thread).store(shared, whole[r][i]);
    }
#pragma unroll
    for (int r = 0; r < kRowsOfWarp / kRestRows; ++r) {
      rest_chunk(r, thread).store(shared, rest[r]);
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
    if (self.lane == 0) ptx::arrive(&shared.empty[page.stage]);
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

  // ---- many pages, in pairs: consumer 0 owns the first of a pair, consumer 1 the second ----

  __device__ __forceinline__ void attend_as_first(int i, int end) {
    attend_own(page(i));
    if (i + 1 < end) attend_other(page(i + 1));
  }

  __device__ __forceinline__ void attend_as_second(int i, int end) {
    const RowsPage other = page(i);
    if (i + 1 == end) {
      attend_other(other);
      return;
    }
    Factors factors;
    Scores scores;
    Fragments p;
    const RowsPage own = page(i + 1);
    begin_score(own, scores);
    end_score(own, scores);
    adopt(other, factors);
    begin_add_other(other, factors);
    publish(own, scores, p, factors);
    end_add_other(other);
    add_own(own, p, factors);
  }

  // ---- few pages: every second is a consumer's own, before it the other's ----

  // The other's page first: the sooner it is done with, the sooner its stage takes another.
  __device__ __forceinline__ void attend_other_first(const RowsPage& other, const RowsPage& own) {
    Factors factors;
    Scores scores;
    Fragments p;
    adopt(other, factors);
    begin_add_other(other, factors);
    begin_score(own, scores);
    wgmma_finish<1>(out);
    release(other);
    end_score(own, scores);
    publish(own, scores, p, factors);
    add_own(own, p, factors);
  }

  __device__ __forceinline__ void attend_few(int begin, int end) {
    int i = begin + self.consumer;
    if (self.consumer == 0) {
      attend_own(page(i));
      i += 2;
    }
    for (; i < end; i += 2) attend_other_first(page(i - 1), page(i));
    if (i == end) attend_other(page(i - 1));
  }

  // Pages [begin, end) of the share. Few wait for their arrival, many for the tensor cores. The
  // results are the same, bit for bit.
  __device__ __forceinline__ void attend(int begin, int end) {
    constexpr int kFewPages = 16;
    if (begin == end) return;
    if (work.pages.size <= kFewPages) {
      attend_few(begin, end);
    } else if (self.consumer == 0) {
      for (int i = begin; i < end; i += 2) attend_as_first(i, end);
    } else {
      for (int i = begin; i < end; i += 2) attend_as_second(i, end);
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

  // put(row, first output element, four of them) for all that the warp holds. Lanes trade pairs: of
  // four neighbouring elements, two lanes hold two each of two rows; the even lane puts the upper
  // row's four, the odd lane the lower's.
  template <typename Put>
  __device__ __forceinline__ void visit_outs(const Put& put) const {
    const bool is_odd = self.lane % 2 == 1;
    const int first_column = self.consumer * Shape::kColumns + self.lane % 4 / 2 * 4;
    const int own_row = row(is_odd ? 1 : 0);
#pragma unroll
    for (int group = 0; group < Shape::kColumns / 8; ++group) {
      float kept[2], got[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float upper = out[index(group, 0, e)], lower = out[index(group, 1, e)];
        kept[e] = is_odd ? lower : upper;
        got[e] = __shfl_xor_sync(0xFFFFFFFF, is_odd ? upper : lower, 1);
      }
      put(own_row, first_column + 8 * group,
          is_odd ? float4{got[0], got[1], kept[0], kept[1]}
                 : float4{kept[0], kept[1], got[0], got[1]});
    }
  }
};

}  // namespace loza::attention::cuda
