#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

#include "loza/attention/check_params.h"
#include "loza/attention/cpu/cpu.h"
#include "loza/attention/cpu/packed_keys.h"
#include "loza/attention/cpu/query_rows.h"
#include "loza/attention/cpu/row_address.h"
#include "loza/attention/cpu/steps.h"
#include "loza/attention/cpu/tile.h"
#include "loza/attention/sequence.h"
#include "loza/base/parallel_for.h"

// Pack the keys; then query tiles, each on its own, walk the keys that they see.
namespace loza::cpu {
namespace {

// Most query rows of a tile: what they carry along stays in the second cache.
constexpr std::int64_t kMaxTileRows = 512;

// Queries at positions [begin_pos, end_pos), which lie in one block, of heads [head_begin,
// head_end), which share a key head.
struct QueryTile {
  std::int64_t sequence_idx = 0, key_head = 0;
  std::int64_t head_begin = 0, head_end = 0;
  std::int64_t begin_pos = 0, end_pos = 0;
};

// The tiles of one sequence, those with the longest way first.
void add_tiles(const ForwardParams& params, std::int64_t sequence_idx,
               std::vector<QueryTile>& tiles) {
  const SequenceRows rows = sequence_rows(params, sequence_idx);
  const std::int64_t block = params.pattern.block_size;
  const std::int64_t group = params.num_heads / params.num_key_heads;
  std::int64_t end = rows.end_pos();
  const std::int64_t first = std::max<std::int64_t>(0, rows.first_query_pos());
  if (rows.q_begin == rows.q_end) return;
  while (end > first) {
    // Tiles begin at whole multiples of kTileRows within their block.
    const std::int64_t block_begin = (end - 1) / block * block;
    const std::int64_t begin =
        std::max(first, block_begin + (end - 1 - block_begin) / kTileRows * kTileRows);
    const std::int64_t heads = std::clamp<std::int64_t>(kMaxTileRows / (end - begin), 1, group);
    for (std::int64_t g = 0; g < params.num_key_heads; ++g) {
      for (std::int64_t h = g * group; h < (g + 1) * group; h += heads) {
        tiles.push_back({sequence_idx, g, h, std::min(h + heads, (g + 1) * group), begin, end});
      }
    }
    end = begin;
  }
}

// Calls visit(head_idx, pos) for the tile's rows, in the order in which QueryRows has them.
template <typename Visit>
void for_each_row(const QueryTile& tile, const Visit& visit) {
  for (std::int64_t h = tile.head_begin; h < tile.head_end; ++h) {
    for (std::int64_t pos = tile.begin_pos; pos < tile.end_pos; ++pos) visit(h, pos);
  }
}

class Forward {
 public:
  Forward(const ForwardParams& params, const TileKernels& kernels)
      : params_(params), kernels_(kernels), keys_(params, kernels) {}

  void run(const QueryTile& tile) const {
    thread_local QueryRows rows;
    start(tile, rows);
    const VisibleBlocks blocks =
        visible_blocks(params_.pattern, tile.begin_pos / params_.pattern.block_size);
    for (const Scorer scorer : {Scorer::kSinkQuery, Scorer::kQuery}) {
      for_each_step(params_.pattern, scorer == Scorer::kSinkQuery ? blocks.sink : blocks.recent,
                    tile.end_pos, kStepKeys,
                    [&](const KeyStep& step) { meet(tile, step, scorer, rows); });
    }
    finish(tile, rows);
  }

 private:
  void start(const QueryTile& tile, QueryRows& rows) const {
    thread_local std::vector<const void*> queries, sink_queries;
    queries.clear();
    sink_queries.clear();
    const SequenceRows sequence = sequence_rows(params_, tile.sequence_idx);
    for_each_row(tile, [&](std::int64_t head_idx, std::int64_t pos) {
      const std::int64_t token = sequence.q_begin + pos - sequence.first_query_pos();
      queries.push_back(row_address(params_.q, params_.dtype, token, head_idx));
      if (params_.sink_q.data == nullptr) return;
      sink_queries.push_back(row_address(params_.sink_q, params_.dtype, token, head_idx));
    });
    rows.start(kernels_, {params_.dtype, params_.qk_size, params_.v_size, params_.scale},
               Reading::kPacked, queries, sink_queries);
  }

  void meet(const QueryTile& tile, const KeyStep& step, Scorer scorer, QueryRows& rows) const {
    thread_local std::vector<ColumnRange> visible;
    thread_local std::vector<const void*> value_rows;
    visible.clear();
    for_each_row(tile, [&](std::int64_t, std::int64_t pos) {
      const std::int64_t end = std::clamp<std::int64_t>(pos + 1 - step.first_pos, 0, step.num_keys);
      visible.push_back({0, static_cast<std::int32_t>(end)});
    });
    rows.meet(keys_.step(tile.sequence_idx, tile.key_head, step, value_rows), visible, scorer);
  }

  void finish(const QueryTile& tile, const QueryRows& rows) const {
    const SequenceRows sequence = sequence_rows(params_, tile.sequence_idx);
    std::int64_t r = 0;
    for_each_row(tile, [&](std::int64_t head_idx, std::int64_t pos) {
      const std::int64_t token = sequence.q_begin + pos - sequence.first_query_pos();
      const SoftmaxState state = rows.state(r++);
      kernels_.store_row(state.out, state.factor(), params_.v_size, params_.dtype,
                         row_address(params_.out, params_.dtype, token, head_idx));
      if (params_.lse != nullptr) params_.lse[token * params_.num_heads + head_idx] = state.lse();
    });
  }

  const ForwardParams& params_;
  const TileKernels& kernels_;
  const PackedKeys keys_;
};

// Rows of queries that have no position, and so see nothing.
void write_blind_rows(const ForwardParams& params, const TileKernels& kernels,
                      std::int64_t sequence_idx) {
  const SequenceRows rows = sequence_rows(params, sequence_idx);
  const std::vector<float> zeros(static_cast<std::size_t>(params.v_size), 0.0f);
  const std::int64_t num_blind =
      std::clamp<std::int64_t>(-rows.first_query_pos(), 0, rows.q_end - rows.q_begin);
  for (std::int64_t token = rows.q_begin; token < rows.q_begin + num_blind; ++token) {
    for (std::int64_t h = 0; h < params.num_heads; ++h) {
      kernels.store_row(zeros.data(), 0.0f, params.v_size, params.dtype,
                        row_address(params.out, params.dtype, token, h));
      if (params.lse != nullptr) {
        params.lse[token * params.num_heads + h] = -std::numeric_limits<float>::infinity();
      }
    }
  }
}

}  // namespace

void attend(const ForwardParams& params) {
  check_params(params);
  const TileKernels& kernels = tile_kernels(params.dtype);
  std::vector<QueryTile> tiles;
  for (std::int64_t b = 0; b < params.num_sequences; ++b) {
    write_blind_rows(params, kernels, b);
    add_tiles(params, b, tiles);
  }
  if (tiles.empty()) return;
  const Forward forward(params, kernels);
  parallel_for(static_cast<std::int64_t>(tiles.size()),
               [&](std::int64_t i) { forward.run(tiles[static_cast<std::size_t>(i)]); });
}

}  // namespace loza::cpu
