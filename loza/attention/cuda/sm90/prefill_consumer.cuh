#pragma once

#include "loza/attention/cuda/sm90/prefill_shape.cuh"

// The consumers of the prefill kernel, a warpgroup each: 64 queries from scores to output.
namespace loza::attention::cuda {

enum PrefillBarrierId { kPrefillConsumer0 = 1, kPrefillConsumer1, kTurn0, kTurn1 };

struct PrefillThread {
  int consumer, thread, warp, lane;  // thread and warp within the warpgroup

  __device__ __forceinline__ int barrier() const { return kPrefillConsumer0 + consumer; }
  // Its queries of the tile, two of them, and its columns of a fragment's group of 8.
  __device__ __forceinline__ int row(int half) const {
    return 64 * consumer + 16 * warp + lane / 4 + 8 * half;
  }
  __device__ __forceinline__ int column(int group, int e) const {
    return 8 * group + 2 * (lane % 4) + e;
  }
};

// Index in a fragment of element e of column group `group`, query `half`.
__device__ __forceinline__ constexpr int prefill_fragment(int group, int half, int e) {
  return 4 * group + 2 * half + e;
}

inline constexpr int kValueSteps = kTileLen / 16;

// Registers of a consumer thread for one tile.
template <typename Shape>
struct PrefillState {
  // Below any score, yet finite: exp2(-inf - max) is 0, not NaN.
  static constexpr float kNoMax = -1e30f;

  float out[Shape::kVSize / 2];
  float max[2];  // the reference that exponents are relative to, in log2
  float sum[2];  // of this thread's keys only

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (float& value : out) value = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      max[half] = kNoMax;
      sum[half] = 0;
    }
  }
};

using Fragments = std::uint32_t[kValueSteps][4];  // P as operand of the second product

template <typename Shape>
struct PrefillConsumer {
  using Element = typename Shape::Element;

  const PrefillArgs& args;
  PrefillShared<Shape>& shared;
  const PrefillThread self;
  QueryPlace q;
  RingPlace<Shape::kStages> k, v;
  PrefillState<Shape> state;

  // ---- the products ----

  // S [64, 2 * kSize] = Q K^T of the key tile's first keys, begun.
  template <int kSize>
  __device__ __forceinline__ void begin_scores(float (&scores)[kSize]) {
    const Descriptor queries = sub_tile_descriptor(ptx::shared_address(shared.q[self.consumer]));
    const Descriptor keys = sub_tile_descriptor(ptx::shared_address(shared.k[k.stage]));
    ptx::wait(&shared.k_full[k.stage], k.parity);
    wgmma_begin();
#pragma unroll
    for (int t = 0; t < Shape::kQkTiles; ++t) {
#pragma unroll
      for (int step = 0; step < kStepsPerSubTile; ++step) {
        wgmma<Element, Operand::kRows>(
            scores, queries + (t * Shape::kQSubTileBytes + step * kRowOperandStep),
            keys + (t * Shape::kSubTileBytes + step * kRowOperandStep), t + step > 0);
      }
    }
    wgmma_commit();
  }

  // O += P V of the key tile's first 16 * kSteps keys, begun; kFirst: O = P V.
  template <int kSteps, bool kFirst>
  __device__ __forceinline__ void begin_values(const Fragments& p) {
    const Descriptor values =
        sub_tile_descriptor(ptx::shared_address(shared.v[v.stage]), Shape::kSubTileBytes);
    await_values();
    wgmma_begin();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      wgmma_of_fragment<Element>(state.out, p[step], values + step * kColumnOperandStep,
                                 !kFirst || step > 0);
    }
    wgmma_commit();
  }

  __device__ __forceinline__ void release(std::uint64_t* empty) {
    if (self.lane == 0) ptx::arrive(empty);
  }
  __device__ __forceinline__ void release_keys() {
    release(&shared.k_empty[k.stage]);
    k.advance();
  }
  __device__ __forceinline__ void release_values() {
    release(&shared.v_empty[v.stage]);
    v.advance();
  }
  __device__ __forceinline__ void await_values() { ptx::wait(&shared.v_full[v.stage], v.parity); }
  __device__ __forceinline__ void await_queries() {
    ptx::wait(&shared.q_full[self.consumer], q.parity);
  }
  __device__ __forceinline__ void release_queries() {
    release(&shared.q_empty[self.consumer]);
    q.advance();
  }

  // Whether key tile i is scored by other queries than tile i - 1.
  __device__ __forceinline__ bool changes_queries(const PrefillTile& tile, int i) const {
    return args.has_sink_q && i == tile.keys.num_recent;
  }
  // After the scores of key tile i: makes room for queries that tile i + 1 does not share.
  __device__ __forceinline__ void end_scores(const PrefillTile& tile, int i) {
    release_keys();
    if (i + 1 == tile.keys.size() || changes_queries(tile, i + 1)) release_queries();
  }

  // ---- between the products ----

  // In the tile's own key tile: hides what comes after the query.
  template <int kSize>
  __device__ __forceinline__ void mask_future(float (&scores)[kSize]) const {
#pragma unroll
    for (int group = kSize / 4 - Shape::kRows / 8; group < kSize / 4; ++group) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if (self.column(group, e) > self.row(half)) {
            scores[prefill_fragment(group, half, e)] = -INFINITY;
          }
        }
      }
    }
  }

  // Rows past the last key may hold anything, and 0 * NaN is NaN. Both consumers write the same.
  __device__ __forceinline__ void clear_values(int first_row) {
    constexpr int kChunks = Shape::kVTiles * 8;
    for (int i = self.thread; i < (kTileLen - first_row) * kChunks; i += Shape::kWarpgroup) {
      const int row = first_row + i / kChunks, chunk = i % kChunks;
      *reinterpret_cast<uint4*>(shared.v[v.stage] + chunk / 8 * Shape::kSubTileBytes +
                                chunk_offset(row, chunk % 8)) = {0, 0, 0, 0};
    }
    ptx::fence_async_proxy();
    ptx::sync(self.barrier(), Shape::kWarpgroup);
  }

  // The largest score of each row, in log2. In four parts, because one instruction waits for the
  // one before that it depends on, and a warp has no other to run.
  template <int kSize>
  __device__ __forceinline__ void find_most(const float (&scores)[kSize], float (&most)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float of[4];
#pragma unroll
      for (int group = 0; group < kSize / 4; ++group) {
        const float pair = fmaxf(scores[prefill_fragment(group, half, 0)],
                                 scores[prefill_fragment(group, half, 1)]);
        of[group % 4] = group < 4 ? pair : fmaxf(of[group % 4], pair);
      }
      most[half] = fmaxf(fmaxf(of[0], of[1]), fmaxf(of[2], of[3]));
      most[half] = fmaxf(most[half], __shfl_xor_sync(0xFFFFFFFF, most[half], 1));
      most[half] = fmaxf(most[half], __shfl_xor_sync(0xFFFFFFFF, most[half], 2));
      most[half] *= args.scale_log2;
    }
  }

  // The reference of a tile's first keys.
  __device__ __forceinline__ void begin_sums(const float (&most)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      state.max[half] = fmaxf(most[half], PrefillState<Shape>::kNoMax);
      state.sum[half] = 0;
    }
  }

  // Moves the reference, and scales earlier results by as much: none may be in flight. It may lag
  // behind the maximum by a factor 2^8, which costs no accuracy, so that it rarely moves. Each row
  // decides alone, so that its result depends on no other.
  __device__ __forceinline__ void follow(const float (&most)[2]) {
    constexpr float kLag = 8;
    const bool moves[2] = {most[0] > state.max[0] + kLag, most[1] > state.max[1] + kLag};
    if (!__any_sync(0xFFFFFFFF, moves[0] || moves[1])) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float old = state.max[half];
      if (moves[half]) state.max[half] = most[half];
      const float factor = ptx::exp2(old - state.max[half]);
      state.sum[half] *= factor;
#pragma unroll
      for (int group = 0; group < Shape::kVSize / 8; ++group) {
        state.out[prefill_fragment(group, half, 0)] *= factor;
        state.out[prefill_fragment(group, half, 1)] *= factor;
      }
    }
  }

  // P = exp2(S - max), summed, and rounded to elements. The product that reads the last P is done:
  // the compiler uses the same registers.
  template <int kSize>
  __device__ __forceinline__ void exponentiate(const float (&scores)[kSize], Fragments& p) {
#pragma unroll
    for (int step = 0; step < kSize / 8; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float of[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          of[i] = ptx::exp2(fmaf(scores[prefill_fragment(2 * step + i / 2, half, i % 2)],
                                 args.scale_log2, -state.max[half]));
        }
        state.sum[half] += (of[0] + of[1]) + (of[2] + of[3]);
        p[step][half] = pack<Element>(of[0], of[1]);
        p[step][2 + half] = pack<Element>(of[2], of[3]);
      }
    }
  }

  // ---- one tile ----

  // Key tile 0, the tile's own positions: the only one that is partly hidden. Its first kKeys.
  template <int kKeys>
  __device__ __forceinline__ void attend_newest(const PrefillTile& tile, Fragments& p) {
    float scores[kKeys / 2];
    float most[2];
    begin_scores(scores);
    wgmma_finish(scores);
    end_scores(tile, 0);
    mask_future(scores);
    find_most(scores, most);
    begin_sums(most);
    exponentiate(scores, p);
    const int num_keys = args.sequences[tile.sequence].end_pos - tile.begin_pos();
    if (num_keys < kTileLen) {
      await_values();
      clear_values(num_keys);
    }
  }

  template <int kSteps, bool kFirst>
  __device__ __forceinline__ void finish_values(const Fragments& p) {
    begin_values<kSteps, kFirst>(p);
    wgmma_finish(state.out);
    release_values();
  }

  // Key tile i: its scores run beside the values of the one before, P. The consumers issue products
  // in turn, so that one's softmax lies under the other's products.
  template <int kSteps, bool kFirst>
  __device__ __forceinline__ void attend_older(const PrefillTile& tile, int i, Fragments& p) {
    float scores[kTileLen / 2];
    float most[2];
    if (changes_queries(tile, i)) await_queries();
    ptx::sync(kTurn0 + self.consumer, 2 * Shape::kWarpgroup);
    begin_scores(scores);
    begin_values<kSteps, kFirst>(p);
    ptx::arrive_at(kTurn1 - self.consumer, 2 * Shape::kWarpgroup);
    wgmma_finish<1>(scores);
    end_scores(tile, i);
    find_most(scores, most);
    wgmma_finish(state.out);
    release_values();
    follow(most);
    exponentiate(scores, p);
  }

  // Key tiles 0 and 1. Of the first, keys after kKeys are hidden from all of the consumer's
  // queries.
  template <int kKeys>
  __device__ __forceinline__ void attend_two_newest(const PrefillTile& tile, Fragments& p) {
    attend_newest<kKeys>(tile, p);
    if (tile.keys.size() == 1) {
      finish_values<kKeys / 16, true>(p);
    } else {
      attend_older<kKeys / 16, true>(tile, 1, p);
    }
  }

  __device__ __forceinline__ void attend(const PrefillTile& tile) {
    if (tile.keys.size() == 0) {
      state.clear();
      return;
    }
    Fragments p;
    await_queries();
    if (self.consumer == 0) {
      attend_two_newest<kTileLen / 2>(tile, p);
    } else {
      attend_two_newest<kTileLen>(tile, p);
    }
    if (tile.keys.size() == 1) return;
    for (int i = 2; i < tile.keys.size(); ++i) attend_older<kValueSteps, false>(tile, i, p);
    finish_values<kValueSteps, false>(p);
  }

  // ---- the output ----

  // Word i of lane l of every four becomes word l of lane i.
  __device__ __forceinline__ void transpose_quad(std::uint32_t (&words)[4]) const {
#pragma unroll
    for (int distance = 1; distance <= 2; distance *= 2) {
      const bool upper = (self.lane & distance) != 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i & distance) continue;
        std::uint32_t& low = words[i];
        std::uint32_t& high = words[i + distance];
        const std::uint32_t received = __shfl_xor_sync(0xFFFFFFFF, upper ? low : high, distance);
        (upper ? low : high) = received;
      }
    }
  }

  __device__ __forceinline__ void store(const PrefillTile& tile) const {
    constexpr float kLn2 = 0.693147180559945f;
    const PrefillSequence& rows = args.sequences[tile.sequence];
    const int pos = tile.begin_pos() + self.row(0);
    const std::int64_t row = q_row(rows, pos);
    float sum[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sum[half] = state.sum[half] + __shfl_xor_sync(0xFFFFFFFF, state.sum[half], 1);
      sum[half] += __shfl_xor_sync(0xFFFFFFFF, sum[half], 2);
    }
    const auto is_query = [&](int half) {
      return pos + 8 * half >= rows.first_pos && pos + 8 * half < rows.end_pos;
    };
    if (args.lse != nullptr && self.lane % 4 == 0) {
      float* to = args.lse + row * args.num_heads + tile.head;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float lse = (state.max[half] + ptx::log2(sum[half])) * kLn2;
        if (is_query(half)) to[8 * half * args.num_heads] = sum[half] > 0 ? lse : -INFINITY;
      }
    }
    Element* to = static_cast<Element*>(args.out) + row * args.out_token_stride +
                  tile.head * args.out_head_stride + 8 * (self.lane % 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float inverse = sum[half] > 0 ? ptx::reciprocal(sum[half]) : 0;
#pragma unroll
      for (int groups = 0; groups < Shape::kVSize / 8; groups += 4) {
        std::uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          words[i] = pack<Element>(state.out[prefill_fragment(groups + i, half, 0)] * inverse,
                                   state.out[prefill_fragment(groups + i, half, 1)] * inverse);
        }
        transpose_quad(words);
        if (is_query(half)) {
          *reinterpret_cast<uint4*>(to + 8 * half * args.out_token_stride + 8 * groups) = {
              words[0], words[1], words[2], words[3]};
        }
      }
    }
  }
};

}  // namespace loza::attention::cuda
