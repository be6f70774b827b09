#pragma once

#include "loza/attention/cuda/device/layout.cuh"
#include "loza/attention/cuda/device/ptx.cuh"
#include "loza/attention/cuda/device/wgmma.cuh"
#include "loza/attention/cuda/sm90/prefill_args.h"

// What a block of the prefill kernel is made of: sizes, shared memory, and its tiles.
namespace loza::attention::cuda {

// Sizes of one kernel.
template <typename Element_, int kQkSize_, int kVSize_>
struct PrefillShape {
  using Element = Element_;
  static constexpr int kQkSize = kQkSize_, kVSize = kVSize_;

  static constexpr int kConsumers = 2;
  static constexpr int kWarpgroup = 128;
  static constexpr int kWarps = kWarpgroup / 32;  // of a consumer
  static constexpr int kConsumerWarps = kConsumers * kWarps;
  static constexpr int kThreads = (kConsumers + 1) * kWarpgroup;
  static constexpr int kRows = kConsumerRows;

  static constexpr int kQkTiles = kQkSize / kSubTileCols;
  static constexpr int kVTiles = kVSize / kSubTileCols;
  static constexpr int kSubTileBytes = kTileLen * kRowBytes;
  static constexpr int kQkBytes = kQkTiles * kSubTileBytes;
  static constexpr int kVBytes = kVTiles * kSubTileBytes;
  static constexpr int kQSubTileBytes = kRows * kRowBytes;
  static constexpr int kQBytes = kQkTiles * kQSubTileBytes;  // of a consumer

  static constexpr int kSharedLimit = 232448;
  static constexpr int kSmallShared = 1024;
  static constexpr int kMostStages = 4;
  static constexpr int kFittingStages =
      (kSharedLimit - kSmallShared - kConsumers * kQBytes) / (kQkBytes + kVBytes);
  static constexpr int kStages = kFittingStages < kMostStages ? kFittingStages : kMostStages;

  static_assert(kRows == 64, "a consumer's queries are the rows of one matrix product");
  static_assert(kConsumers * kRows == kTileLen);
  static_assert(kQkSize % kSubTileCols == 0 && kVSize % kSubTileCols == 0,
                "rows are whole sub-tiles");
  static_assert(kStages >= 2, "the next tile's keys arrive while this one's are read");
};

template <typename Shape>
struct PrefillShared {
  alignas(kSubTileAlign) std::uint8_t q[Shape::kConsumers][Shape::kQBytes];
  alignas(kSubTileAlign) std::uint8_t k[Shape::kStages][Shape::kQkBytes];
  alignas(kSubTileAlign) std::uint8_t v[Shape::kStages][Shape::kVBytes];

  std::uint64_t q_full[Shape::kConsumers], q_empty[Shape::kConsumers];
  std::uint64_t k_full[Shape::kStages], k_empty[Shape::kStages];
  std::uint64_t v_full[Shape::kStages], v_empty[Shape::kStages];
};

// A place in a ring of stages, and the parity of the barriers at its present use.
template <int kStages>
struct RingPlace {
  int stage = 0;
  unsigned parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// A consumer's queries have a ring of one.
using QueryPlace = RingPlace<1>;

// One query tile of one head.
struct PrefillTile {
  int head, query_tile, sequence;
  KeyTiles keys;

  __device__ __forceinline__ int begin_pos() const { return query_tile * kTileLen; }
};

// Row of the packed tensor that holds the query / key at a position; rows outside the sequence
// belong to another or to nobody.
__device__ __forceinline__ int q_row(const PrefillSequence& rows, int pos) {
  return rows.q_begin + pos - rows.first_pos;
}
__device__ __forceinline__ int k_row(const PrefillSequence& rows, int pos) {
  return rows.k_begin + pos - (pos < rows.kept_prefix ? 0 : rows.skipped);
}

// The tile at place `index` of the order of work: heads_in_turn heads together, whose tiles come
// longest first, or shortest first in every second turn: so a turn goes on where the one before
// ended, and blocks stay level although a turn is no whole number of rounds. The last turn ends
// with the shortest.
__device__ __forceinline__ PrefillTile tile_at(const PrefillArgs& args, int index) {
  PrefillTile tile;
  const int turn_size = args.num_tiles * args.heads_in_turn;
  const int turn = index / turn_size;
  index -= turn * turn_size;
  const int place = index / args.heads_in_turn;
  tile.head = turn * args.heads_in_turn + index - place * args.heads_in_turn;
  const bool longest_first = (args.num_heads / args.heads_in_turn - turn) % 2 == 1;
  const int of_all = longest_first ? args.num_tiles - 1 - place : place;
  int begin = 0, end = args.num_sequences;  // the sequence is in [begin, end)
  while (end - begin > 1) {
    const int middle = (begin + end) / 2;
    (args.sequences[middle].tile_begin <= of_all ? begin : end) = middle;
  }
  tile.sequence = begin;
  const PrefillSequence& rows = args.sequences[begin];
  tile.query_tile = tile_of(rows.first_pos) + of_all - rows.tile_begin;
  tile.keys = key_tiles(args.pattern, tile.query_tile);
  return tile;
}

// The tiles of this block: every gridDim.x-th, in turn from the front and from the back, so that
// none gets the longest of every round.
class TileWalk {
 public:
  __device__ __forceinline__ explicit TileWalk(const PrefillArgs& args) : args_(args) {}

  // False if there is none left.
  __device__ __forceinline__ bool take(PrefillTile& tile) {
    const int num_blocks = gridDim.x, block = blockIdx.x;
    const int index = round_ * num_blocks + (round_ % 2 == 0 ? block : num_blocks - 1 - block);
    if (index >= args_.num_tiles * args_.num_heads) return false;
    ++round_;
    tile = tile_at(args_, index);
    return true;
  }

 private:
  const PrefillArgs& args_;
  int round_ = 0;
};

}  // namespace loza::attention::cuda
