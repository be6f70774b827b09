#pragma once

#include "loza/attention/cuda/sm90/partial_merge.cuh"
#include "loza/attention/cuda/sm90/rows_consumer.cuh"

// The end of an item that one block has, or a cluster of two. A consumer's half of the output
// elements is half a block's work: alone, a block stores both; of two, block w stores half w,
// which the other's consumer w sends it.
//
// What is sent lies as the threads hold it, each for the same thread of the other block, in vectors
// of 4: no thread looks for its elements, no bank conflicts. Only the result, in the element type,
// is put into rows.
namespace loza::attention::cuda {

// This consumer's half is the other block's.
template <typename Shape>
__device__ __forceinline__ void send_half(const RowsConsumer<Shape>& consumer,
                                          RowsShared<Shape>& shared, const float (&sum)[2]) {
  const ConsumerThread& self = consumer.self;
  const int peer = self.consumer;
  const std::uint32_t barrier = ptx::peer_address(&shared.out_received, peer);
  const auto& out = consumer.out;
#pragma unroll
  for (int i = 0; i < RowsEndArea<Shape>::kVectors; ++i) {
    ptx::send(ptx::peer_address(&shared.end.received[i][self.thread], peer), barrier,
              float4{out[4 * i], out[4 * i + 1], out[4 * i + 2], out[4 * i + 3]});
  }
  if (self.lane % 4 != 0) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    ptx::send(ptx::peer_address(&shared.end.stats[consumer.row(half)], peer), barrier,
              float2{consumer.max[half], sum[half]});
  }
}

// Adds what the other block's consumer sends.
template <typename Shape>
__device__ __forceinline__ void add_received(RowsConsumer<Shape>& consumer,
                                             RowsShared<Shape>& shared, float (&sum)[2]) {
  const ConsumerThread& self = consumer.self;
  auto& area = shared.end;
  if (self.thread == 0) {
    ptx::arrive_expecting(&shared.out_received,
                          static_cast<int>(sizeof(area.received) + sizeof(area.stats)));
  }
  ptx::wait(&shared.out_received, 0);
  float own[2], others[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float2 other = area.stats[consumer.row(half)];
    const float most = fmaxf(consumer.max[half], other.x);
    own[half] = ptx::exp2(consumer.max[half] - most);
    others[half] = ptx::exp2(other.x - most);
    sum[half] = own[half] * sum[half] + others[half] * other.y;
    consumer.max[half] = most;
  }
  auto& out = consumer.out;
#pragma unroll
  for (int i = 0; i < RowsEndArea<Shape>::kVectors; ++i) {
    const float4 more = area.received[i][self.thread];
    out[4 * i] = own[0] * out[4 * i] + others[0] * more.x;
    out[4 * i + 1] = own[0] * out[4 * i + 1] + others[0] * more.y;
    out[4 * i + 2] = own[1] * out[4 * i + 2] + others[1] * more.z;
    out[4 * i + 3] = own[1] * out[4 * i + 3] + others[1] * more.w;
  }
}

// Divides the half by `sum` and stores it, by way of sub-tiles [rows][64 elements].
template <typename Shape>
__device__ __forceinline__ void store_half(const RowsConsumer<Shape>& consumer,
                                           RowsShared<Shape>& shared, const SwapItem& item,
                                           const float (&sum)[2]) {
  using Element = typename Shape::Element;
  const DecodeArgs& args = consumer.args;
  const ConsumerThread& self = consumer.self;
  auto& staged = shared.end.staged[self.consumer];
  const int staged_row = 16 * self.warp + self.lane % 16;
  float factors[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) factors[half] = sum[half] > 0 ? __fdividef(1, sum[half]) : 0;
#pragma unroll
  for (int group = 0; group < Shape::kColumns / 8; group += 2) {
    std::uint32_t packed[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int of = group + i / 2, half = i % 2;
      packed[i] = pack<Element>(factors[half] * consumer.out[consumer.index(of, half, 0)],
                                factors[half] * consumer.out[consumer.index(of, half, 1)]);
    }
    ptx::store_matrices(ptx::shared_address(staged[group / 8]) +
                            chunk_offset(staged_row, group % 8 + self.lane / 16),
                        packed);
  }
  ptx::sync(self.barrier(), Shape::kWarpgroup);
  constexpr int kRowChunks = RowsEndArea<Shape>::kTiles * 8;
  for (int i = self.thread; i < item.num_rows * kRowChunks; i += Shape::kWarpgroup) {
    const int row = i / kRowChunks, chunk = i % kRowChunks;
    const RowPlace place = place_of(args, item, row);
    Element* to = static_cast<Element*>(args.out) + place.token * args.out_token_stride +
                  place.head * args.out_head_stride + self.consumer * Shape::kColumns;
    reinterpret_cast<uint4*>(to)[chunk] =
        *reinterpret_cast<const uint4*>(staged[chunk / 8] + chunk_offset(row, chunk % 8));
  }
}

// After share_stats and a barrier of the consumers.
template <typename Shape>
__device__ __forceinline__ void end_pair(RowsConsumer<Shape>& consumer, RowsShared<Shape>& shared,
                                         const SwapItem& item) {
  const ConsumerThread& self = consumer.self;
  float sum[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] = shared.sum[0][consumer.row(half)] + shared.sum[1][consumer.row(half)];
  }
  if (item.cluster_size > 1) {
    ptx::cluster_arrive();
    ptx::cluster_wait();
    if (self.consumer != item.rank) {
      send_half(consumer, shared, sum);
      return;
    }
    add_received(consumer, shared, sum);
  }
  if (self.consumer == 0 && self.lane % 4 == 0) {
    const ResultSlice<Shape> result = {consumer.args, item, 0};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = consumer.row(half);
      if (row < item.num_rows) result.put_lse(row, {consumer.max[half], sum[half]});
    }
  }
  store_half(consumer, shared, item, sum);
}

}  // namespace loza::attention::cuda
