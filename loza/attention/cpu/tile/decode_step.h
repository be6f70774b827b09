#pragma once

#include <cstdint>

#include "loza/attention/cpu/tile.h"
#include "loza/attention/cpu/tile/pack.h"
#include "loza/attention/cpu/tile/softmax_group.h"

// A step of decode. Scores are dot products: 16 words of a key row at a time meet those of several
// queries, and 16 such sums are added up across their lanes together. Values are joined to B
// operands in registers, a few columns at a time. Include after a words_*.h.
namespace loza::cpu {
namespace {

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Whether rows of a dtype are words as they lie in memory.
template <DType dtype>
constexpr bool kRowsAreWords = (dtype == DType::kF32) == (kWordElements == 1);

template <DType dtype>
void pack_decode_queries_of(const RowPointers& from, Word* to) {
  constexpr std::int64_t chunk = kLanes * kWordElements;
  for (std::int64_t i = 0; i < from.count; ++i) {
    for (std::int64_t first = 0; first < from.size; first += chunk) {
      const Words words = words_of_row<dtype>(element_address<dtype>(from.rows[i], first));
      store_words(words, to + (first / chunk * from.count + i) * kLanes);
    }
  }
}
void pack_decode_queries(const RowPointers& from, Word* to) {
  if constexpr (kWordElements == 1) {
    if (from.dtype == DType::kF32) return pack_decode_queries_of<DType::kF32>(from, to);
  }
  pack_decode_queries_of<DType::kBF16>(from, to);
}

// Brings memory into the second cache, line by line between the products: all at once, the requests
// would wait for each other, and the products for them.
class Fetcher {
 public:
  // The loops over a step's keys go round num_turns times.
  Fetcher(const DecodeStep& step, std::int64_t num_turns)
      : next_(step.coming), end_(step.coming + step.num_coming) {
    std::int64_t lines = 0;
    for (const MemoryRange* range = next_; range != end_; ++range) {
      lines += (range->num_bytes + kLine - 1) / kLine;
    }
    lines_a_turn_ = (lines + num_turns - 1) / num_turns;
  }

  // What the next `turns` turns bring, from line() on. (More than a range has, if they come to its
  // end: that does no harm.)
  void begin(std::int64_t turns) {
    if (left_ <= 0) {
      if (next_ == end_) {
        lines_a_turn_ = 0;
        return;
      }
      line_ = next_->begin;
      left_ = next_->num_bytes;
      ++next_;
    }
    left_ -= turns * lines_a_turn_ * kLine;
  }
  const std::byte* line() const { return line_; }
  std::int64_t lines_a_turn() const { return lines_a_turn_; }
  void end_at(const std::byte* line) { line_ = line; }

  [[gnu::always_inline]] static const std::byte* turn(const std::byte* line, std::int64_t lines) {
    for (; lines > 0; --lines, line += kLine) __builtin_prefetch(line, 0, 2);
    return line;
  }

 private:
  static constexpr std::int64_t kLine = 64;

  const MemoryRange *next_, *end_;
  std::int64_t lines_a_turn_ = 0;
  const std::byte* line_ = nullptr;
  std::int64_t left_ = 0;  // bytes of the range from line_ on
};

// Keys whose sums with `rows` queries stay in registers.
constexpr int keys_of_tile(int rows) {
  const int keys = kDotSums / rows;
  return keys < 8 ? keys : 8;
}

// Scores of `rows` queries with keys_of_tile(rows) keys: scores[row * keys + key].
template <int rows>
[[gnu::always_inline]] inline void dot_tile(const DecodeStep& step, std::int64_t first_row,
                                            const void* const (&keys)[keys_of_tile(rows)],
                                            Fetcher& fetcher, float* scores) {
  constexpr int num_keys = keys_of_tile(rows);
  Floats sums[rows * num_keys];
  const Word* key_words[num_keys];
#pragma GCC unroll 16
  for (int i = 0; i < rows * num_keys; ++i) sums[i] = zeros();
#pragma GCC unroll 8
  for (int i = 0; i < num_keys; ++i) key_words[i] = static_cast<const Word*>(keys[i]);
  const Word* queries = step.queries + first_row * kLanes;
  fetcher.begin(step.qk_words / kLanes);
  const std::byte* line = fetcher.line();
  const std::int64_t lines = fetcher.lines_a_turn();
  for (std::int64_t w = 0; w < step.qk_words; w += kLanes) {
    Words key_chunks[num_keys];
#pragma GCC unroll 8
    for (int k = 0; k < num_keys; ++k) key_chunks[k] = in_register(load_words(key_words[k] + w));
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Words query = in_register(load_words(queries + r * kLanes));
#pragma GCC unroll 8
      for (int k = 0; k < num_keys; ++k) {
        sums[r * num_keys + k] = accumulate(sums[r * num_keys + k], query, key_chunks[k]);
      }
    }
    queries += step.queries_stride * kLanes;
    line = Fetcher::turn(line, lines);
  }
  fetcher.end_at(line);
  sums_of_lanes(sums, scores);
}

template <int rows>
void compute_dots(const DecodeStep& step, const void* const* keys, std::int64_t first_row,
                  Fetcher& fetcher, SoftmaxGroup& group) {
  constexpr int tile_keys = keys_of_tile(rows);
  for (std::int64_t key = 0; key < step.num_keys; key += tile_keys) {
    const std::int64_t there = smaller(tile_keys, step.num_keys - key);
    const void* tile[tile_keys];
    for (int k = 0; k < tile_keys; ++k) tile[k] = keys[key + (k < there ? k : 0)];
    float scores[rows * tile_keys];
    dot_tile<rows>(step, first_row, tile, fetcher, scores);
    for (int r = 0; r < rows; ++r) {
      for (int k = 0; k < there; ++k) {
        group.scores[first_row + r][key + k] = scores[r * tile_keys + k];
      }
    }
  }
}

// Calls function<rows>(arguments...) for a number of rows from 1 to `largest`.
template <int largest, typename Call>
inline void with_rows(std::int64_t rows, const Call& call) {
  if constexpr (largest > 0) {
    if (rows >= largest) return call.template operator()<largest>();
    with_rows<largest - 1>(rows, call);
  }
}

inline void compute_scores(const DecodeStep& step, const void* const* keys, Fetcher& fetcher,
                           SoftmaxGroup& group) {
  std::int64_t row = 0;
  while (row < step.num_rows) {
    with_rows<kDotRows>(step.num_rows - row, [&]<int rows>() {
      compute_dots<rows>(step, keys, row, fetcher, group);
      row += rows;
    });
  }
}

// The values of one word of keys at 16 or 32 columns.
template <DType dtype>
[[gnu::always_inline]] inline WordsPair value_words(const DecodeStep& step, std::int64_t key,
                                                    std::int64_t column) {
  const void* rows[kWordElements];
#pragma GCC unroll 2
  for (int e = 0; e < kWordElements; ++e) {
    // After the last key its weight is 0.
    rows[e] = element_address<dtype>(step.values[smaller(key + e, step.num_keys - 1)], column);
  }
  if constexpr (kValueVectors == 2) return pair_across_rows<dtype>(rows);
  const Words words = words_across_rows<dtype>(rows);
  return {words, words};
}

// out [rows][columns] = factor * out + weights * values for kValueVectors vectors of columns, in
// registers.
template <DType dtype, int rows>
inline void add_values_tile(const DecodeStep& step, const SoftmaxGroup& group,
                            std::int64_t first_row, std::int64_t column, Fetcher& fetcher) {
  const std::int64_t out_stride = step.v_panels * kLanes;
  float* out = step.out + first_row * out_stride + column;
  Floats first[rows], second[rows];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    const Floats factor = broadcast(group.factors[first_row + r]);
    first[r] = load(out + r * out_stride) * factor;
    if constexpr (kValueVectors == 2) second[r] = load(out + r * out_stride + kLanes) * factor;
  }
  const Word* weights = group.weights[first_row];
  fetcher.begin((step.num_keys + kWordElements - 1) / kWordElements);
  const std::byte* line = fetcher.line();
  const std::int64_t lines = fetcher.lines_a_turn();
  for (std::int64_t key = 0; key < step.num_keys; key += kWordElements, ++weights) {
    const WordsPair loaded = value_words<dtype>(step, key, column);
    const Words values[] = {in_register(loaded.first), in_register(loaded.second)};
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Words weight = broadcast_word(weights + r * (kStepKeys / kWordElements));
      first[r] = accumulate(first[r], weight, values[0]);
      if constexpr (kValueVectors == 2) second[r] = accumulate(second[r], weight, values[1]);
    }
    line = Fetcher::turn(line, lines);
  }
  fetcher.end_at(line);
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    store(first[r], out + r * out_stride);
    if constexpr (kValueVectors == 2) store(second[r], out + r * out_stride + kLanes);
  }
}

template <DType dtype>
inline void add_values(const DecodeStep& step, const SoftmaxGroup& group, Fetcher& fetcher) {
  std::int64_t row = 0;
  while (row < step.num_rows) {
    with_rows<kValueRows>(step.num_rows - row, [&]<int rows>() {
      for (std::int64_t panel = 0; panel < step.v_panels; panel += kValueVectors) {
        add_values_tile<dtype, rows>(step, group, row, panel * kLanes, fetcher);
      }
      row += rows;
    });
  }
}

// Times that the loops over a step's keys go round.
inline std::int64_t num_turns(const DecodeStep& step) {
  const std::int64_t rows = smaller(step.num_rows, kDotRows);
  const std::int64_t tile_keys = keys_of_tile(static_cast<int>(rows));
  return (step.num_keys + tile_keys - 1) / tile_keys * (step.qk_words / kLanes) +
         (step.num_keys + kWordElements - 1) / kWordElements * (step.v_panels / kValueVectors);
}

template <DType dtype>
void decode_step_of(const DecodeStep& step) {
  SoftmaxGroup group(step.num_rows);
  group.scale_log2 = step.scale_log2;
  group.num_visible = step.num_keys;
  group.num_columns = round_up(step.num_keys, kLanes);
  group.max = step.max;
  group.sum = step.sum;
  Fetcher fetcher(step, num_turns(step));
  if constexpr (kRowsAreWords<dtype>) {
    compute_scores(step, step.keys, fetcher, group);
  } else {
    const void* rows[kStepKeys];
    pack_rows_of<dtype>({step.keys, step.num_keys, step.qk_words, dtype}, step.qk_words, step.room);
    for (std::int64_t i = 0; i < step.num_keys; ++i) rows[i] = step.room + i * step.qk_words;
    compute_scores(step, rows, fetcher, group);
  }
  mask_scores(group);
  update_max(group);
  compute_weights(group);
  add_values<dtype>(step, group, fetcher);
}

void decode_step(const DecodeStep& step) {
  if constexpr (kWordElements == 1) {
    if (step.dtype == DType::kF32) return decode_step_of<DType::kF32>(step);
  }
  decode_step_of<DType::kBF16>(step);
}

}  // namespace
}  // namespace loza::cpu
