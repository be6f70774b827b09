#pragma once

#include "loza/attention/cpu/tile.h"
#include "loza/attention/cpu/tile/multiply.h"
#include "loza/attention/cpu/tile/softmax_group.h"

// A step of the forward pass: scores, online softmax, weighted values. Include after a
// words_*.h.
namespace loza::cpu {
namespace {

inline void compute_scores(const ForwardStep& step, std::int64_t first_row, SoftmaxGroup& group) {
  Product product;
  product.rows = group.num_rows;
  product.panels = group.num_columns / kLanes;
  product.words = step.qk_words;
  product.a = step.queries + first_row * step.qk_words;
  product.a_stride = step.qk_words;
  product.b = step.keys;
  product.b_stride = step.qk_words * kLanes;
  product.c = group.scores[0];
  product.c_stride = kStepKeys;
  multiply<Start::kZero>(product);
}

inline void add_values(const ForwardStep& step, std::int64_t first_row, const SoftmaxGroup& group) {
  Product product;
  product.rows = group.num_rows;
  product.panels = step.v_panels;
  product.words = group.num_columns / kWordElements;
  product.a = group.weights[0];
  product.a_stride = kStepKeys / kWordElements;
  product.b = step.values;
  product.b_stride = step.value_panel_stride;
  product.c_stride = step.v_panels * kLanes;
  product.c = step.out + first_row * product.c_stride;
  product.factors = group.factors;
  multiply<Start::kRescale>(product);
}

// Columns up to the last that some row sees.
inline std::int64_t num_visible_columns(const SoftmaxGroup& group) {
  std::int64_t end = 0;
  for (std::int64_t i = 0; i < group.num_rows; ++i) {
    const ColumnRange visible = group.visible_to(i);
    if (visible.begin < visible.end && visible.end > end) end = visible.end;
  }
  return round_up(end, kLanes);
}

void forward_step(const ForwardStep& step) {
  for (std::int64_t first = 0; first < step.num_rows; first += kGroupRows) {
    const std::int64_t left = step.num_rows - first;
    SoftmaxGroup group(left < kGroupRows ? left : kGroupRows);
    group.scale_log2 = step.scale_log2;
    group.visible = step.visible + first;
    group.max = step.max + first;
    group.sum = step.sum + first * kLanes;
    group.num_columns = num_visible_columns(group);
    if (group.num_columns == 0) continue;
    compute_scores(step, first, group);
    mask_scores(group);
    update_max(group);
    compute_weights(group);
    add_values(step, first, group);
  }
}

}  // namespace
}  // namespace loza::cpu
