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

// A sequence is cut into splits at fixed positions. Each split reads its keys and values once, for
// all query tokens and all heads; the splits' states are merged in their order. Rows are read where
// they lie; those whose sizes are not whole vectors are packed first.
namespace loza::cpu {
namespace {

// Positions of a split; far from a sequence's beginning there are many, and each has a state to
// keep and to merge.
constexpr std::int64_t kSplitKeys = 512, kLongSplitKeys = 2048, kFirstLongSplit = 16384;
static_assert(kSplitKeys % kStepKeys == 0, "a step lies in one split");

// The split of a position. Patterns that see as much as kFirstLongSplit positions from the first on
// agree; the others see too little at a time for long splits.
std::int64_t split_at(const BlockPattern& pattern, std::int64_t pos) {
  if (pos < kFirstLongSplit || pattern.exact_len() <= kFirstLongSplit) return pos / kSplitKeys;
  return kFirstLongSplit / kSplitKeys + (pos - kFirstLongSplit) / kLongSplitKeys;
}

// What a step of rows that are read where they lie takes of the second cache, where the next
// step's rows arrive beside it.
constexpr std::int64_t kStepBytes = 160 << 10;

// Of the first step that a thread reads: those that are used before they could have come.
constexpr std::int64_t kUnfetchedRows = 16;

// Keys of a sequence that some new token sees, in the stretch of positions of one split_at().
struct Split {
  std::int64_t sequence_idx = 0;
  std::int64_t first_step = 0, end_step = 0;
  std::int64_t num_keys = 0;
};

// First position of the query tokens of a sequence; negative when it is shorter than q_len.
std::int64_t first_query_pos(const DecodeParams& params, std::int64_t sequence_idx) {
  return params.kv.lengths[sequence_idx] - params.q_len;
}

// The steps of all sequences, and the splits that they belong to.
struct Plan {
  std::vector<KeyStep> steps;
  std::vector<Split> splits;
  std::vector<std::int64_t> first_split;  // [B + 1]

  Plan(const DecodeParams& params, std::int64_t step_keys) {
    for (std::int64_t b = 0; b < params.num_sequences; ++b) {
      first_split.push_back(num_splits());
      add_sequence(params, b, step_keys);
    }
    first_split.push_back(num_splits());
  }

  std::int64_t num_splits() const { return static_cast<std::int64_t>(splits.size()); }
  const Split& split(std::int64_t i) const { return splits[static_cast<std::size_t>(i)]; }
  const KeyStep& step(std::int64_t i) const { return steps[static_cast<std::size_t>(i)]; }

 private:
  void add_sequence(const DecodeParams& params, std::int64_t sequence_idx, std::int64_t step_keys) {
    const std::int64_t length = params.kv.lengths[sequence_idx];
    if (length == 0) return;
    const std::int64_t first_pos = std::max<std::int64_t>(0, first_query_pos(params, sequence_idx));
    const KeyLayout layout = KeyLayout::of(params.pattern, first_pos, length);
    std::int64_t current = -1;
    for (const BlockRange& range : {BlockRange{0, layout.num_sink_blocks}, layout.recent}) {
      for_each_step(params.pattern, range, length, step_keys, [&](const KeyStep& step) {
        const auto num_steps = static_cast<std::int64_t>(steps.size());
        const std::int64_t split_idx = split_at(params.pattern, step.first_pos);
        if (split_idx != current) splits.push_back({sequence_idx, num_steps, num_steps, 0});
        current = split_idx;
        steps.push_back(step);
        splits.back().end_step = num_steps + 1;
        splits.back().num_keys += step.num_keys;
      });
    }
  }
};

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

// Tokens [begin, end) that see the same columns of a step.
template <typename Visit>
void for_each_run(const std::vector<ColumnRange>& columns_of_token, const Visit& visit) {
  const auto num_tokens = static_cast<std::int64_t>(columns_of_token.size());
  const auto columns = [&](std::int64_t t) {
    return columns_of_token[static_cast<std::size_t>(t)];
  };
  std::int64_t end = 0;
  for (std::int64_t begin = 0; begin < num_tokens; begin = end) {
    end = begin + 1;
    while (end < num_tokens && columns(end) == columns(begin)) ++end;
    if (columns(begin).begin < columns(begin).end) visit(begin, end, columns(begin));
  }
}

// Where the rows of a step's tokens begin in the pages.
using RowAddresses = std::vector<const std::byte*>;

// Consecutive splits, and key heads of them, that are read together.
struct Work {
  std::int64_t split_begin = 0, split_end = 0;
  std::int64_t head_begin = 0, head_end = 0;
  std::int64_t num_keys = 0;

  std::int64_t num_heads() const { return head_end - head_begin; }
};

class Decode {
 public:
  Decode(const DecodeParams& params, const TileKernels& kernels)
      : params_(params),
        kernels_(kernels),
        sizes_{params.kv.dtype, params.qk_size, params.v_size, params.scale},
        reading_(kernels.reads_rows(params.qk_size, params.v_size) ? Reading::kRows
                                                                   : Reading::kPacked),
        group_(params.num_heads / params.num_key_heads),
        plan_(params, step_keys()) {
    const std::int64_t num_states = plan_.num_splits() * params.num_key_heads * rows();
    max_.grow(num_states);
    sum_.grow(num_states);
    out_.grow(num_states * params.v_size);
  }

  void run() {
    const std::vector<Work> works = shared_out();
    parallel_for(static_cast<std::int64_t>(works.size()),
                 [&](std::int64_t i) { run(works[static_cast<std::size_t>(i)]); });
    parallel_for(params_.num_sequences * params_.q_len * params_.num_heads, [&](std::int64_t i) {
      merge_splits(i / params_.num_heads, i % params_.num_heads);
    });
  }

 private:
  // Whether values are not a part of the keys, as they are in MLA.
  bool values_are_apart() const { return params_.kv.v_offset >= params_.qk_size; }

  // Fewer where a token's row is long.
  std::int64_t step_keys() const {
    if (reading_ == Reading::kPacked) return kStepKeys;
    const std::int64_t size = params_.qk_size + (values_are_apart() ? params_.v_size : 0);
    const auto row_bytes =
        params_.num_key_heads * size * static_cast<std::int64_t>(element_bytes(params_.kv.dtype));
    std::int64_t keys = kStepKeys;
    while (keys > kLanes && keys * row_bytes > kStepBytes) keys /= 2;
    return keys;
  }

  // Few heads at a time only where there are too few splits for the threads, many splits together
  // where there are many: memory is then read in long stretches, whose beginnings alone must be
  // waited for. The longest first, the last ones short, so that threads end together. (No number
  // depends on any of it.)
  std::vector<Work> shared_out() const {
    const std::int64_t num_splits = plan_.num_splits(), wanted = 2 * num_threads();
    const std::int64_t parts = std::clamp<std::int64_t>(
        wanted / std::max<std::int64_t>(num_splits, 1), 1, params_.num_key_heads);
    const std::int64_t heads = (params_.num_key_heads + parts - 1) / parts;
    std::int64_t keys_left = 0;
    for (const Split& split : plan_.splits) keys_left += split.num_keys;
    std::vector<Work> works;
    for (std::int64_t begin = 0, end = 0; begin < num_splits; begin = end) {
      std::int64_t num_keys = 0;
      do {
        num_keys += plan_.split(end++).num_keys;
      } while (end < num_splits && num_keys < keys_left / wanted);
      keys_left -= num_keys;
      for (std::int64_t g = 0; g < params_.num_key_heads; g += heads) {
        works.push_back({begin, end, g, std::min(g + heads, params_.num_key_heads), num_keys});
      }
    }
    std::stable_sort(works.begin(), works.end(),
                     [](const Work& a, const Work& b) { return a.num_keys > b.num_keys; });
    return works;
  }

  // Rows that share a key head: query tokens times heads of a group.
  std::int64_t rows() const { return params_.q_len * group_; }
  std::int64_t state_idx(std::int64_t split_idx, std::int64_t key_head, std::int64_t row) const {
    return (split_idx * params_.num_key_heads + key_head) * rows() + row;
  }

  void run(const Work& work) const {
    thread_local std::vector<QueryRows> rows_of_head;
    thread_local RowAddresses now, next, coming;
    if (rows_of_head.size() < static_cast<std::size_t>(work.num_heads())) {
      rows_of_head.resize(static_cast<std::size_t>(work.num_heads()));
    }
    const auto for_each_head = [&](const auto& visit) {
      for (std::int64_t g = work.head_begin; g < work.head_end; ++g) {
        visit(g, rows_of_head[static_cast<std::size_t>(g - work.head_begin)]);
      }
    };
    const std::int64_t end_step = plan_.split(work.split_end - 1).end_step;
    find_rows(plan_.split(work.split_begin), plan_.split(work.split_begin).first_step, now);
    // Nobody has fetched the first step's rows: they come a little ahead of where it computes.
    coming.assign(now.begin() + std::min<std::ptrdiff_t>(kUnfetchedRows, std::ssize(now)),
                  now.end());
    for (std::int64_t i = work.split_begin; i < work.split_end; ++i) {
      const Split& split = plan_.split(i);
      for_each_head([&](std::int64_t g, QueryRows& rows) { start(split, g, rows); });
      for (std::int64_t s = split.first_step; s < split.end_step; ++s) {
        next.clear();
        if (s + 1 < end_step) {
          find_rows(s + 1 < split.end_step ? split : plan_.split(i + 1), s + 1, next);
        }
        coming.insert(coming.end(), next.begin(), next.end());
        for_each_head([&](std::int64_t g, QueryRows& rows) {
          if (reading_ == Reading::kRows) {
            read(work, split, g, plan_.step(s), now, coming, rows);
          } else {
            meet(split, g, plan_.step(s), now, rows);
          }
        });
        std::swap(now, next);
        coming.clear();
      }
      for_each_head([&](std::int64_t g, const QueryRows& rows) { keep(i, g, rows); });
    }
  }

  void keep(std::int64_t split_idx, std::int64_t key_head, const QueryRows& rows) const {
    for (std::int64_t r = 0; r < rows.count(); ++r) {
      const SoftmaxState state = rows.state(r);
      const std::int64_t i = state_idx(split_idx, key_head, r);
      max_.data()[i] = state.max;
      sum_.data()[i] = state.sum;
      std::copy_n(state.out, params_.v_size, out_.data() + i * params_.v_size);
    }
  }

  void start(const Split& split, std::int64_t key_head, QueryRows& rows) const {
    thread_local std::vector<const void*> queries, sink_queries;
    queries.clear();
    sink_queries.clear();
    for (std::int64_t t = 0; t < params_.q_len; ++t) {
      for (std::int64_t h = key_head * group_; h < (key_head + 1) * group_; ++h) {
        const std::int64_t token = split.sequence_idx * params_.q_len + t;
        queries.push_back(row_address(params_.q, params_.kv.dtype, token, h));
        if (params_.sink_q.data == nullptr) continue;
        sink_queries.push_back(row_address(params_.sink_q, params_.kv.dtype, token, h));
      }
    }
    rows.start(kernels_, sizes_, reading_, queries, sink_queries);
  }

  // Calls visit(scorer, columns of each token) for the two stretches that tokens may see.
  template <typename Visit>
  void for_each_scorer(std::int64_t sequence_idx, const KeyStep& step, const Visit& visit) const {
    thread_local std::vector<ColumnRange> sink, recent;
    sink.clear();
    recent.clear();
    for (std::int64_t t = 0; t < params_.q_len; ++t) {
      const VisibleColumns columns =
          visible_columns(params_.pattern, step, first_query_pos(params_, sequence_idx) + t);
      sink.push_back(columns.sink);
      recent.push_back(columns.recent);
    }
    visit(Scorer::kSinkQuery, sink);
    visit(Scorer::kQuery, recent);
  }

  // One head's part of a step, its rows read where they lie. Its share of the rows that are coming
  // is brought into the cache meanwhile.
  void read(const Work& work, const Split& split, std::int64_t key_head, const KeyStep& step,
            const RowAddresses& now, const RowAddresses& coming, QueryRows& rows) const {
    thread_local std::vector<const void*> keys, values;
    thread_local std::vector<MemoryRange> ranges;
    point_at_heads(now, key_head, keys, values);
    const auto num_coming = static_cast<std::int64_t>(coming.size());
    const std::int64_t i = key_head - work.head_begin;
    ranges.clear();
    for (std::int64_t row = num_coming * i / work.num_heads();
         row < num_coming * (i + 1) / work.num_heads(); ++row) {
      add_ranges(work, coming[static_cast<std::size_t>(row)], ranges);
    }
    const std::vector<MemoryRange>* not_yet_fetched = &ranges;
    for_each_scorer(
        split.sequence_idx, step, [&](Scorer scorer, const std::vector<ColumnRange>& columns) {
          for_each_run(columns, [&](std::int64_t begin, std::int64_t end, ColumnRange seen) {
            rows.read({keys.data() + seen.begin, values.data() + seen.begin, seen.end - seen.begin,
                       not_yet_fetched},
                      begin * group_, (end - begin) * group_, scorer);
            not_yet_fetched = nullptr;
          });
        });
  }

  // What a work's heads read of a token's row.
  void add_ranges(const Work& work, const std::byte* row, std::vector<MemoryRange>& ranges) const {
    const PagedKvView& kv = params_.kv;
    const auto add = [&](std::int64_t first, std::int64_t head_stride, std::int64_t size) {
      const auto bytes = static_cast<std::int64_t>(element_bytes(kv.dtype));
      const std::byte* begin = row + (first + work.head_begin * head_stride) * bytes;
      const std::int64_t num_bytes = ((work.num_heads() - 1) * head_stride + size) * bytes;
      if (!ranges.empty() && ranges.back().begin + ranges.back().num_bytes == begin) {
        ranges.back().num_bytes += num_bytes;
      } else {
        ranges.push_back({begin, num_bytes});
      }
    };
    add(0, kv.k_head_stride, params_.qk_size);
    if (values_are_apart()) add(kv.v_offset, kv.v_head_stride, params_.v_size);
  }

  // Where the keys and values of a head lie in these rows.
  void point_at_heads(const RowAddresses& rows, std::int64_t key_head,
                      std::vector<const void*>& keys, std::vector<const void*>& values) const {
    const PagedKvView& kv = params_.kv;
    const auto bytes = static_cast<std::int64_t>(element_bytes(kv.dtype));
    const std::int64_t key = key_head * kv.k_head_stride * bytes;
    const std::int64_t value = (kv.v_offset + key_head * kv.v_head_stride) * bytes;
    keys.resize(rows.size());
    values.resize(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      keys[i] = rows[i] + key;
      values[i] = rows[i] + value;
    }
  }

  // One head's part of a step, packed first.
  void meet(const Split& split, std::int64_t key_head, const KeyStep& step, const RowAddresses& now,
            QueryRows& rows) const {
    thread_local Buffer<Word> keys, values;
    thread_local std::vector<const void*> key_rows, value_rows;
    thread_local std::vector<ColumnRange> visible;
    const std::int64_t padded_keys = round_up(step.num_keys, kLanes);
    point_at_heads(now, key_head, key_rows, value_rows);
    key_rows.resize(static_cast<std::size_t>(padded_keys), nullptr);
    value_rows.resize(static_cast<std::size_t>(padded_keys), nullptr);

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

    for_each_scorer(split.sequence_idx, step,
                    [&](Scorer scorer, const std::vector<ColumnRange>& columns) {
                      visible.clear();
                      bool sees_any = false;
                      for (const ColumnRange& of_token : columns) {
                        sees_any |= of_token.begin < of_token.end;
                        visible.insert(visible.end(), static_cast<std::size_t>(group_), of_token);
                      }
                      if (sees_any) rows.meet(packed, visible, scorer);
                    });
  }

  void find_rows(const Split& split, std::int64_t step_idx, RowAddresses& rows) const {
    const PagedKvView& kv = params_.kv;
    const KeyStep& step = plan_.step(step_idx);
    const std::int32_t* table = kv.page_table + split.sequence_idx * kv.table_stride;
    rows.resize(static_cast<std::size_t>(step.num_keys));
    const std::int64_t end = step.first_pos + step.num_keys;
    const auto row_bytes = kv.row_stride * static_cast<std::int64_t>(element_bytes(kv.dtype));
    const std::byte** row = rows.data();
    for (std::int64_t pos = step.first_pos; pos < end;) {
      const std::int64_t page_idx = pos / kv.page_len;
      const std::int64_t page_end = std::min((page_idx + 1) * kv.page_len, end);
      const std::int64_t first =
          table[page_slot(kv, page_idx)] * kv.page_stride + pos % kv.page_len * kv.row_stride;
      const auto* address =
          static_cast<const std::byte*>(element_address(kv.pages, kv.dtype, first));
      for (; pos < page_end; ++pos, address += row_bytes) *row++ = address;
    }
  }

  void merge_splits(std::int64_t token, std::int64_t head) const {
    thread_local std::vector<float> out;
    const auto sequence = static_cast<std::size_t>(token / params_.q_len);
    const std::int64_t row = token % params_.q_len * group_ + head % group_;
    out.assign(static_cast<std::size_t>(params_.v_size), 0.0f);
    SoftmaxState whole;
    whole.out = out.data();
    for (std::int64_t i = plan_.first_split[sequence]; i < plan_.first_split[sequence + 1]; ++i) {
      const std::int64_t part = state_idx(i, head / group_, row);
      merge({max_.data()[part], sum_.data()[part], out_.data() + part * params_.v_size},
            params_.v_size, whole);
    }
    kernels_.store_row(whole.out, whole.factor(), params_.v_size, params_.kv.dtype,
                       row_address(params_.out, params_.kv.dtype, token, head));
    if (params_.lse != nullptr) params_.lse[token * params_.num_heads + head] = whole.lse();
  }

  const DecodeParams& params_;
  const TileKernels& kernels_;
  const RowSizes sizes_;
  const Reading reading_;
  const std::int64_t group_;  // heads that share a key head
  const Plan plan_;
  Buffer<float> max_, sum_;  // [splits, G, rows]
  Buffer<float> out_;        // [splits, G, rows, V]
};

}  // namespace

void attend_paged(const DecodeParams& params) {
  check_params(params);
  Decode(params, tile_kernels(params.kv.dtype)).run();
}

}  // namespace loza::cpu
