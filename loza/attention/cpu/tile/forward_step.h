#pragma once

#include "loza/attention/cpu/tile.h"
#include "loza/attention/cpu/tile/multiply.h"

// A step of the forward pass: scores, online softmax, weighted values. Include after a
// words_*.h.
namespace loza::cpu {
namespace {

// Rows that go through a step together, so that their scores and weights stay in the first
// cache. What a row gets does not depend on the others of its group.
constexpr std::int64_t kGroupRows = 24;
constexpr std::int64_t kPaddedGroupRows = 32;

struct ForwardGroup {
  const ForwardStep& step;
  const std::int64_t first_row, num_rows;
  std::int64_t num_columns = 0;  // a multiple of 16; none beyond is visible

  alignas(64) float scores[kGroupRows][kStepKeys];
  alignas(64) Word weights[kGroupRows][kStepKeys / kWordElements];
  alignas(64) float new_max[kPaddedGroupRows];
  alignas(64) float factors[kPaddedGroupRows];  // for what a row has summed up before

  // Leaves the arrays as they are.
  ForwardGroup(const ForwardStep& of, std::int64_t first, std::int64_t rows)
      : step(of), first_row(first), num_rows(rows) {}

  ColumnRange visible(std::int64_t i) const { return step.visible[first_row + i]; }
  bool sees_all(std::int64_t i) const {
    return visible(i).begin <= 0 && visible(i).end >= num_columns;
  }
};

inline void compute_scores(ForwardGroup& group) {
  const ForwardStep& step = group.step;
  Product product;
  product.rows = group.num_rows;
  product.panels = group.num_columns / kLanes;
  product.words = step.qk_words;
  product.a = step.queries + group.first_row * step.qk_words;
  product.a_stride = step.qk_words;
  product.b = step.keys;
  product.b_stride = step.qk_words * kLanes;
  product.c = group.scores[0];
  product.c_stride = kStepKeys;
  multiply<Start::kZero>(product);
}

// Scores of what a row does not see become -inf.
inline void mask_scores(ForwardGroup& group) {
  const Floats nothing = broadcast(-__builtin_inff());
  for (std::int64_t i = 0; i < group.num_rows; ++i) {
    if (group.sees_all(i)) continue;
    const ColumnRange visible = group.visible(i);
    for (std::int64_t j = 0; j < group.num_columns; j += kLanes) {
      float* scores = group.scores[i] + j;
      store(keep_lanes(load(scores), visible.begin - j, visible.end - j, nothing), scores);
    }
  }
}

inline void update_max(ForwardGroup& group) {
  float* max_so_far = group.step.max + group.first_row;
  const Floats scale = broadcast(group.step.scale_log2);
  for (std::int64_t i = 0; i < group.num_rows; ++i) {
    // A NaN score is passed over here: it makes the weight, and so the row, NaN.
    Floats largest = broadcast(max_so_far[i]);
    for (std::int64_t j = 0; j < group.num_columns; j += kLanes) {
      largest = max(load(group.scores[i] + j) * scale, largest);
    }
    group.new_max[i] = max_of_lanes(largest);
    group.factors[i] = max_so_far[i] - group.new_max[i];
    max_so_far[i] = group.new_max[i];
  }
  for (std::int64_t i = group.num_rows; i < kPaddedGroupRows; ++i) group.factors[i] = 0;
  for (std::int64_t i = 0; i < kPaddedGroupRows; i += kLanes) {
    store(exp2(load(group.factors + i)), group.factors + i);
  }
}

inline void compute_weights(ForwardGroup& group) {
  const Floats scale = broadcast(group.step.scale_log2);
  float* sums = group.step.sum + group.first_row * kLanes;
  for (std::int64_t i = 0; i < group.num_rows; ++i) {
    const Floats max = broadcast(group.new_max[i]);
    Floats sum = load(sums + i * kLanes) * broadcast(group.factors[i]);
    for (std::int64_t j = 0; j < group.num_columns; j += kLanes) {
      const Floats weight = exp2(multiply_subtract(load(group.scores[i] + j), scale, max));
      sum = sum + weight;
      store_row_of_a(weight, group.weights[i] + j / kWordElements);
    }
    store(sum, sums + i * kLanes);
  }
}

inline void add_values(const ForwardGroup& group) {
  const ForwardStep& step = group.step;
  Product product;
  product.rows = group.num_rows;
  product.panels = step.v_panels;
  product.words = group.num_columns / kWordElements;
  product.a = group.weights[0];
  product.a_stride = kStepKeys / kWordElements;
  product.b = step.values;
  product.b_stride = step.value_panel_stride;
  product.c_stride = step.v_panels * kLanes;
  product.c = step.out + group.first_row * product.c_stride;
  product.factors = group.factors;
  multiply<Start::kRescale>(product);
}

// Columns up to the last that some row sees.
inline std::int64_t num_visible_columns(const ForwardGroup& group) {
  std::int64_t end = 0;
  for (std::int64_t i = 0; i < group.num_rows; ++i) {
    const ColumnRange visible = group.visible(i);
    if (visible.begin < visible.end && visible.end > end) end = visible.end;
  }
  return round_up(end, kLanes);
}

void forward_step(const ForwardStep& step) {
  for (std::int64_t first = 0; first < step.num_rows; first += kGroupRows) {
    const std::int64_t left = step.num_rows - first;
    ForwardGroup group(step, first, left < kGroupRows ? left : kGroupRows);
    group.num_columns = num_visible_columns(group);
    if (group.num_columns == 0) continue;
    compute_scores(group);
    mask_scores(group);
    update_max(group);
    compute_weights(group);
    add_values(group);
  }
}

}  // namespace
}  // namespace loza::cpu
