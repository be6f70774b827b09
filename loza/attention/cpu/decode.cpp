#include <algorithm>
#include <cstddef>
#include <vector>

#include "loza/attention/check_params.h"
#include "loza/attention/cpu/buffer.h"
#include "loza/attention/cpu/cpu.h"
#include "loza/attention/cpu/query_rows.h"
#include "loza/attention/cpu/row_address.h"
#include "loza/attention/cpu/steps.h"
#include "loza/attention/cpu/tile.h"
#include "loza/base/parallel_for.h"

// A sequence is cut into splits at fixed positions. Each split packs its keys step by step as
// it reads them, for all query tokens and for all heads that share a key head; the splits'
// states are merged in their order.
namespace loza::cpu {
namespace {

constexpr std::int64_t kSplitKeys = 512;
static_assert(kSplitKeys % kStepKeys == 0, "a step lies in one split");

// Keys of a sequence that some new token sees, in one stretch of kSplitKeys positions.
struct Split {
  std::int64_t sequence_idx = 0;
  std::vector<KeyStep> steps;
};

// First position of the query tokens of a sequence; negative when it is shorter than q_len.
std::int64_t first_query_pos(const DecodeParams& params, std::int64_t sequence_idx) {
  return params.kv.lengths[sequence_idx] - params.q_len;
}

void add_splits(const DecodeParams& params, std::int64_t sequence_idx, std::vector<Split>& splits) {
  const std::int64_t length = params.kv.lengths[sequence_idx];
  if (length == 0) return;
  const std::int64_t first_pos = std::max<std::int64_t>(0, first_query_pos(params, sequence_idx));
  const KeyLayout layout = KeyLayout::of(params.pattern, first_pos, length);
  std::int64_t current = -1;
  for (const BlockRange& range : {BlockRange{0, layout.num_sink_blocks}, layout.recent}) {
    for_each_step(params.pattern, range, length, [&](const KeyStep& step) {
      if (step.first_pos / kSplitKeys != current) splits.push_back({sequence_idx, {}});
      current = step.first_pos / kSplitKeys;
      splits.back().steps.push_back(step);
    });
  }
}

// What of a step's keys a token sees: at most two stretches, of the sink and of the recent
// blocks. `token_pos` may be negative: such a token sees nothing.
struct VisibleColumns {
  ColumnRange sink, recent;
};

VisibleColumns visible_columns(const BlockPattern& pattern, const KeyStep& step,
                               std::int64_t token_pos) {
  if (token_pos < 0) return {};
  const std::int64_t block = pattern.block_size;
  const VisibleBlocks blocks = visible_blocks(pattern, token_pos / block);
  const auto columns = [&](std::int64_t begin_pos, std::int64_t end_pos) {
    const auto column = [&](std::int64_t pos) {
      return static_cast<std::int32_t>(
          std::clamp<std::int64_t>(pos - step.first_pos, 0, step.num_keys));
    };
    return ColumnRange{column(begin_pos), column(end_pos)};
  };
  return {columns(blocks.sink.begin * block, blocks.sink.end * block),
          columns(blocks.recent.begin * block, token_pos + 1)};
}

class Decode {
 public:
  Decode(const DecodeParams& params, const TileKernels& kernels)
      : params_(params),
        kernels_(kernels),
        sizes_{params.kv.dtype, params.qk_size, params.v_size, params.scale},
        group_(params.num_heads / params.num_key_heads) {
    for (std::int64_t b = 0; b < params.num_sequences; ++b) {
      first_split_.push_back(num_splits());
      add_splits(params, b, splits_);
    }
    first_split_.push_back(num_splits());
    const std::int64_t num_states = num_splits() * params.num_key_heads * rows();
    max_.grow(num_states);
    sum_.grow(num_states);
    out_.grow(num_states * params.v_size);
  }

  void run() {
    const std::int64_t key_heads = params_.num_key_heads;
    parallel_for(num_splits() * key_heads,
                 [&](std::int64_t i) { run_split(i / key_heads, i % key_heads); });
    parallel_for(params_.num_sequences * key_heads,
                 [&](std::int64_t i) { merge_splits(i / key_heads, i % key_heads); });
  }

 private:
  // Rows that share a key head: query tokens times heads of a group.
  std::int64_t rows() const { return params_.q_len * group_; }
  std::int64_t num_splits() const { return static_cast<std::int64_t>(splits_.size()); }
  SoftmaxState state_of(std::int64_t split_idx, std::int64_t key_head, std::int64_t row) const {
    const std::int64_t i = (split_idx * params_.num_key_heads + key_head) * rows() + row;
    return {max_.data()[i], sum_.data()[i], out_.data() + i * params_.v_size};
  }

  void run_split(std::int64_t split_idx, std::int64_t key_head) const {
    thread_local QueryRows rows;
    const Split& split = splits_[static_cast<std::size_t>(split_idx)];
    start(split.sequence_idx, key_head, rows);
    for (const KeyStep& step : split.steps) meet(split.sequence_idx, key_head, step, rows);
    for (std::int64_t r = 0; r < rows.count(); ++r) {
      const SoftmaxState state = rows.state(r);
      const std::int64_t i = (split_idx * params_.num_key_heads + key_head) * rows.count() + r;
      max_.data()[i] = state.max;
      sum_.data()[i] = state.sum;
      std::copy_n(state.out, params_.v_size, out_.data() + i * params_.v_size);
    }
  }

  void start(std::int64_t sequence_idx, std::int64_t key_head, QueryRows& rows) const {
    thread_local std::vector<const void*> queries, sink_queries;
    queries.clear();
    sink_queries.clear();
    for (std::int64_t t = 0; t < params_.q_len; ++t) {
      for (std::int64_t h = key_head * group_; h < (key_head + 1) * group_; ++h) {
        const std::int64_t token = sequence_idx * params_.q_len + t;
        queries.push_back(row_address(params_.q, params_.kv.dtype, token, h));
        if (params_.sink_q.data == nullptr) continue;
        sink_queries.push_back(row_address(params_.sink_q, params_.kv.dtype, token, h));
      }
    }
    rows.start(kernels_, sizes_, queries, sink_queries);
  }

  void meet(std::int64_t sequence_idx, std::int64_t key_head, const KeyStep& step,
            QueryRows& rows) const {
    thread_local Buffer<Word> keys, values;
    thread_local std::vector<const void*> key_rows, value_rows;
    const std::int64_t padded_keys = round_up(step.num_keys, kLanes);
    find_rows(sequence_idx, key_head, step, padded_keys, key_rows, value_rows);

    PackedStep packed;
    packed.num_keys = step.num_keys;
    packed.value_panel_stride = kernels_.words(padded_keys) * kLanes;
    packed.keys = keys.grow(padded_keys * kernels_.words(params_.qk_size));
    packed.values = values.grow(sizes_.v_panels() * packed.value_panel_stride);
    kernels_.pack_panels_of_rows({key_rows.data(), padded_keys, params_.qk_size, params_.kv.dtype},
                                 keys.data());
    const bool is_finite = kernels_.pack_panels_of_size(
        {value_rows.data(), padded_keys, params_.v_size, params_.kv.dtype},
        packed.value_panel_stride, values.data());
    if (!is_finite) packed.value_rows = value_rows.data();

    meet_visible(sequence_idx, step, packed, rows);
  }

  // A step with keys of the sink and of recent blocks may be met twice.
  void meet_visible(std::int64_t sequence_idx, const KeyStep& step, const PackedStep& packed,
                    QueryRows& rows) const {
    thread_local std::vector<ColumnRange> sink, recent;
    sink.clear();
    recent.clear();
    bool sees_sink = false, sees_recent = false;
    for (std::int64_t t = 0; t < params_.q_len; ++t) {
      const VisibleColumns columns =
          visible_columns(params_.pattern, step, first_query_pos(params_, sequence_idx) + t);
      sees_sink |= columns.sink.begin < columns.sink.end;
      sees_recent |= columns.recent.begin < columns.recent.end;
      sink.insert(sink.end(), static_cast<std::size_t>(group_), columns.sink);
      recent.insert(recent.end(), static_cast<std::size_t>(group_), columns.recent);
    }
    if (sees_sink) rows.meet(packed, sink, Scorer::kSinkQuery);
    if (sees_recent) rows.meet(packed, recent, Scorer::kQuery);
  }

  // Where the keys and values of a step lie; null for padding.
  void find_rows(std::int64_t sequence_idx, std::int64_t key_head, const KeyStep& step,
                 std::int64_t padded_keys, std::vector<const void*>& key_rows,
                 std::vector<const void*>& value_rows) const {
    const PagedKvView& kv = params_.kv;
    const std::int32_t* table = kv.page_table + sequence_idx * kv.table_stride;
    key_rows.assign(static_cast<std::size_t>(padded_keys), nullptr);
    value_rows.assign(static_cast<std::size_t>(padded_keys), nullptr);
    std::int64_t page_begin = 0, page_end = 0, page_element = 0;
    for (std::int64_t i = 0; i < step.num_keys; ++i) {
      const std::int64_t pos = step.first_pos + i;
      if (pos >= page_end) {
        page_begin = pos / kv.page_len * kv.page_len;
        page_end = page_begin + kv.page_len;
        page_element = table[page_slot(kv, pos / kv.page_len)] * kv.page_stride;
      }
      const std::int64_t element = page_element + (pos - page_begin) * kv.row_stride;
      key_rows[static_cast<std::size_t>(i)] =
          element_address(kv.pages, kv.dtype, element + key_head * kv.k_head_stride);
      value_rows[static_cast<std::size_t>(i)] =
          element_address(kv.pages, kv.dtype, element + kv.v_offset + key_head * kv.v_head_stride);
    }
  }

  void merge_splits(std::int64_t sequence_idx, std::int64_t key_head) const {
    thread_local std::vector<float> out;
    for (std::int64_t r = 0; r < rows(); ++r) {
      out.assign(static_cast<std::size_t>(params_.v_size), 0.0f);
      SoftmaxState whole;
      whole.out = out.data();
      for (std::int64_t i = first_split_[static_cast<std::size_t>(sequence_idx)];
           i < first_split_[static_cast<std::size_t>(sequence_idx + 1)]; ++i) {
        merge(state_of(i, key_head, r), params_.v_size, whole);
      }
      const std::int64_t token = sequence_idx * params_.q_len + r / group_;
      const std::int64_t head = key_head * group_ + r % group_;
      kernels_.store_row(whole.out, whole.factor(), params_.v_size, params_.kv.dtype,
                         row_address(params_.out, params_.kv.dtype, token, head));
      if (params_.lse != nullptr) params_.lse[token * params_.num_heads + head] = whole.lse();
    }
  }

  const DecodeParams& params_;
  const TileKernels& kernels_;
  const RowSizes sizes_;
  const std::int64_t group_;  // heads that share a key head
  std::vector<Split> splits_;
  std::vector<std::int64_t> first_split_;  // [B + 1]
  Buffer<float> max_, sum_;                // [splits, G, rows]
  Buffer<float> out_;                      // [splits, G, rows, V]
};

}  // namespace

void attend_paged(const DecodeParams& params) {
  check_params(params);
  Decode(params, tile_kernels(params.kv.dtype)).run();
}

}  // namespace loza::cpu
