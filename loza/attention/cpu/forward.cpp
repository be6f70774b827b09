#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>
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

// Query tiles walk the packed keys that they see. Tiles of one run share packed keys. Few runs:
// keys are packed by all threads together, then tiles are shared out. Many runs, as long prompts
// under a streaming pattern have: each is one thread's, whose packed keys stay near it and are
// memory that it has used before.
namespace loza::cpu {
namespace {

// Most query rows of a tile: what they carry along stays in the second cache.
constexpr std::int64_t kMaxTileRows = 512;

// Memory of packed keys that a thread keeps for its next call: new memory costs a prompt of 4,096
// tokens a tenth of its time.
constexpr std::int64_t kMostKeptBytes = std::int64_t{32} << 20;

// Queries at positions [begin_pos, end_pos) of one sequence, of all heads that share a key head.
struct QueryRun {
  std::int64_t sequence_idx = 0, key_head = 0;
  std::int64_t begin_pos = 0, end_pos = 0;
};

// Queries of a run at positions [begin_pos, end_pos), which lie in one block, of heads [head_begin,
// head_end).
struct QueryTile {
  const QueryRun* run = nullptr;
  std::int64_t head_begin = 0, head_end = 0;
  std::int64_t begin_pos = 0, end_pos = 0;
};

// All queries that have a position, cut at multiples of `run_len` positions.
std::vector<QueryRun> runs_of(const ForwardParams& params, std::int64_t run_len) {
  std::vector<QueryRun> runs;
  for (std::int64_t b = 0; b < params.num_sequences; ++b) {
    const SequenceRows rows = sequence_rows(params, b);
    if (rows.q_begin == rows.q_end) continue;
    for (std::int64_t g = 0; g < params.num_key_heads; ++g) {
      std::int64_t end = 0;
      for (std::int64_t begin = std::max<std::int64_t>(0, rows.first_query_pos());
           begin < rows.end_pos(); begin = end) {
        end = std::min(rows.end_pos(), (begin / run_len + 1) * run_len);
        runs.push_back({b, g, begin, end});
      }
    }
  }
  return runs;
}

// Tiles of a run, the last positions first.
void add_tiles(const ForwardParams& params, const QueryRun& run, std::vector<QueryTile>& tiles) {
  const std::int64_t block = params.pattern.block_size;
  const std::int64_t group = params.num_heads / params.num_key_heads;
  std::int64_t end = run.end_pos;
  while (end > run.begin_pos) {
    // Tiles begin at whole multiples of kTileRows within their block.
    const std::int64_t block_begin = (end - 1) / block * block;
    const std::int64_t begin =
        std::max(run.begin_pos, block_begin + (end - 1 - block_begin) / kTileRows * kTileRows);
    const std::int64_t heads = std::clamp<std::int64_t>(kMaxTileRows / (end - begin), 1, group);
    const std::int64_t group_begin = run.key_head * group, group_end = group_begin + group;
    for (std::int64_t h = group_begin; h < group_end; h += heads) {
      tiles.push_back({&run, h, std::min(h + heads, group_end), begin, end});
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
      : params_(params), kernels_(kernels) {}

  void run_alone(const QueryRun& run) const {
    thread_local PackedKeys keys;
    thread_local std::vector<QueryTile> tiles;
    start(run, keys);
    for (std::int64_t slot = 0; slot < keys.num_blocks(); ++slot) keys.pack_block(slot);
    tiles.clear();
    add_tiles(params_, run, tiles);
    for (const QueryTile& tile : tiles) attend(tile, keys);
  }

  void run_together(const std::vector<QueryRun>& runs) const {
    thread_local std::vector<PackedKeys> kept_keys;
    std::vector<PackedKeys>& keys = kept_keys;  // this thread's, for all threads
    if (keys.size() < runs.size()) keys.resize(runs.size());
    std::vector<std::pair<PackedKeys*, std::int64_t>> blocks;
    std::vector<QueryTile> tiles;
    for (std::size_t i = 0; i < runs.size(); ++i) {
      start(runs[i], keys[i]);
      for (std::int64_t slot = 0; slot < keys[i].num_blocks(); ++slot) {
        blocks.emplace_back(&keys[i], slot);
      }
      add_tiles(params_, runs[i], tiles);
    }
    parallel_for(static_cast<std::int64_t>(blocks.size()), [&](std::int64_t i) {
      const auto& [of_run, slot] = blocks[static_cast<std::size_t>(i)];
      of_run->pack_block(slot);
    });
    // Those with the longest way first.
    std::stable_sort(tiles.begin(), tiles.end(),
                     [](const QueryTile& a, const QueryTile& b) { return a.end_pos > b.end_pos; });
    parallel_for(static_cast<std::int64_t>(tiles.size()), [&](std::int64_t i) {
      const QueryTile& tile = tiles[static_cast<std::size_t>(i)];
      attend(tile, keys[static_cast<std::size_t>(tile.run - runs.data())]);
    });
    std::int64_t kept_bytes = 0;
    for (const PackedKeys& of_run : keys) kept_bytes += of_run.num_bytes();
    if (kept_bytes > kMostKeptBytes) keys.clear();
  }

 private:
  void start(const QueryRun& run, PackedKeys& keys) const {
    keys.start(params_, kernels_, run.sequence_idx, run.key_head, run.begin_pos, run.end_pos);
  }

  void attend(const QueryTile& tile, const PackedKeys& keys) const {
    thread_local QueryRows rows;
    start(tile, rows);
    const VisibleBlocks blocks =
        visible_blocks(params_.pattern, tile.begin_pos / params_.pattern.block_size);
    for (const Scorer scorer : {Scorer::kSinkQuery, Scorer::kQuery}) {
      for_each_step(params_.pattern, scorer == Scorer::kSinkQuery ? blocks.sink : blocks.recent,
                    tile.end_pos, kStepKeys,
                    [&](const KeyStep& step) { meet(tile, keys, step, scorer, rows); });
    }
    finish(tile, rows);
  }

  void start(const QueryTile& tile, QueryRows& rows) const {
    thread_local std::vector<const void*> queries, sink_queries;
    queries.clear();
    sink_queries.clear();
    const SequenceRows sequence = sequence_rows(params_, tile.run->sequence_idx);
    for_each_row(tile, [&](std::int64_t head_idx, std::int64_t pos) {
      const std::int64_t token = sequence.q_begin + pos - sequence.first_query_pos();
      queries.push_back(row_address(params_.q, params_.dtype, token, head_idx));
      if (params_.sink_q.data == nullptr) return;
      sink_queries.push_back(row_address(params_.sink_q, params_.dtype, token, head_idx));
    });
    rows.start(kernels_, {params_.dtype, params_.qk_size, params_.v_size, params_.scale},
               Reading::kPacked, queries, sink_queries);
  }

  void meet(const QueryTile& tile, const PackedKeys& keys, const KeyStep& step, Scorer scorer,
            QueryRows& rows) const {
    thread_local std::vector<ColumnRange> visible;
    thread_local std::vector<const void*> value_rows;
    visible.clear();
    for_each_row(tile, [&](std::int64_t, std::int64_t pos) {
      const std::int64_t end = std::clamp<std::int64_t>(pos + 1 - step.first_pos, 0, step.num_keys);
      visible.push_back({0, static_cast<std::int32_t>(end)});
    });
    rows.meet(keys.step(step, value_rows), visible, scorer);
  }

  void finish(const QueryTile& tile, const QueryRows& rows) const {
    const SequenceRows sequence = sequence_rows(params_, tile.run->sequence_idx);
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
};

// Runs of one thread each, long enough that what two neighbours both pack is little; none where
// they would be too few for the threads. (No number depends on it.)
std::vector<QueryRun> runs_for_threads(const ForwardParams& params) {
  if (params.pattern.is_full()) return {};
  for (const std::int64_t windows : {8, 4, 2}) {
    std::vector<QueryRun> runs = runs_of(params, windows * params.pattern.exact_len());
    if (static_cast<int>(runs.size()) >= 4 * num_threads()) return runs;
  }
  return {};
}

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
  for (std::int64_t b = 0; b < params.num_sequences; ++b) write_blind_rows(params, kernels, b);
  const Forward forward(params, kernels);
  const std::vector<QueryRun> runs = runs_for_threads(params);
  if (runs.empty()) {
    return forward.run_together(runs_of(params, std::numeric_limits<std::int64_t>::max()));
  }
  parallel_for(static_cast<std::int64_t>(runs.size()),
               [&](std::int64_t i) { forward.run_alone(runs[static_cast<std::size_t>(i)]); });
}

}  // namespace loza::cpu
