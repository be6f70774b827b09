#pragma once

#include "loza/attention/cpu/tile.h"

// Online softmax of a few rows that go through a step together, so that their scores and weights
// stay in the first cache. Include after a words_*.h.
namespace loza::cpu {
namespace {

// What a row gets does not depend on the others of its group.
constexpr std::int64_t kGroupRows = 24;
constexpr std::int64_t kPaddedGroupRows = 32;

struct SoftmaxGroup {
  const std::int64_t num_rows;
  float scale_log2 = 0;
  const ColumnRange* visible = nullptr;  // [num_rows]; null: every row sees num_visible columns
  std::int64_t num_visible = 0;
  std::int64_t num_columns = 0;          // a multiple of 16; none beyond is visible
  float *max = nullptr, *sum = nullptr;  // the state, of the group's first row on

  alignas(64) float scores[kGroupRows][kStepKeys];
  alignas(64) Word weights[kGroupRows][kStepKeys / kWordElements];
  alignas(64) float new_max[kPaddedGroupRows];
  alignas(64) float factors[kPaddedGroupRows];  // for what a row has summed up before

  // Leaves the arrays as they are.
  explicit SoftmaxGroup(std::int64_t rows) : num_rows(rows) {}

  ColumnRange visible_to(std::int64_t i) const {
    return visible != nullptr ? visible[i] : ColumnRange{0, static_cast<std::int32_t>(num_visible)};
  }
  bool sees_all(std::int64_t i) const {
    return visible_to(i).begin <= 0 && visible_to(i).end >= num_columns;
  }
};

// Scores of what a row does not see become -inf.
inline void mask_scores(SoftmaxGroup& group) {
  const Floats nothing = broadcast(-__builtin_inff());
  for (std::int64_t i = 0; i < group.num_rows; ++i) {
    if (group.sees_all(i)) continue;
    const ColumnRange visible = group.visible_to(i);
    for (std::int64_t j = 0; j < group.num_columns; j += kLanes) {
      float* scores = group.scores[i] + j;
      store(keep_lanes(load(scores), visible.begin - j, visible.end - j, nothing), scores);
    }
  }
}

inline void update_max(SoftmaxGroup& group) {
  const Floats scale = broadcast(group.scale_log2);
  for (std::int64_t i = 0; i < group.num_rows; ++i) {
    // A NaN score is passed over here: it makes the weight, and so the row, NaN.
    Floats largest = broadcast(group.max[i]);
    for (std::int64_t j = 0; j < group.num_columns; j += kLanes) {
      largest = max(load(group.scores[i] + j) * scale, largest);
    }
    group.new_max[i] = max_of_lanes(largest);
    group.factors[i] = group.max[i] - group.new_max[i];
    group.max[i] = group.new_max[i];
  }
  for (std::int64_t i = group.num_rows; i < kPaddedGroupRows; ++i) group.factors[i] = 0;
  for (std::int64_t i = 0; i < kPaddedGroupRows; i += kLanes) {
    store(exp2(load(group.factors + i)), group.factors + i);
  }
}

inline void compute_weights(SoftmaxGroup& group) {
  const Floats scale = broadcast(group.scale_log2);
  for (std::int64_t i = 0; i < group.num_rows; ++i) {
    const Floats max = broadcast(group.new_max[i]);
    float* sums = group.sum + i * kLanes;
    Floats sum = load(sums) * broadcast(group.factors[i]);
    for (std::int64_t j = 0; j < group.num_columns; j += kLanes) {
      const Floats weight = exp2(multiply_subtract(load(group.scores[i] + j), scale, max));
      sum = sum + weight;
      store_row_of_a(weight, group.weights[i] + j / kWordElements);
    }
    store(sum, sums);
  }
}

}  // namespace
}  // namespace loza::cpu
