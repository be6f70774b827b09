#pragma once

#include "loza/attention/cpu/tile.h"
#include "loza/attention/cpu/tile/multiply.h"

// A step of the backward pass, with S = Q K^T, P = exp2(scale S - lse), dP = dO V^T,
// dS = P (dP - delta):
//   dV += P^T dO,   dK += dS^T Q,   dQ += dS K.
// Keys stand in the rows and queries in the lanes, so that lse and delta are vectors, P^T and
// dS^T are A operands as they come, and only dS is written once more, as a B operand.
// Include after a words_*.h.
namespace loza::cpu {
namespace {

// Keys that go through a step together.
constexpr std::int64_t kGroupKeys = 24;

struct BackwardGroup {
  const BackwardStep& step;
  const std::int64_t first_key, num_keys;
  std::int64_t first_row = 0;  // a multiple of 16; the keys are not seen by rows before it

  // [keys][rows]
  alignas(64) float scores[kGroupKeys][kTileRows];
  alignas(64) float d_weights[kGroupKeys][kTileRows];
  alignas(64) Word weights[kGroupKeys][kTileRows / kWordElements];
  alignas(64) Word d_scores[kGroupKeys][kTileRows / kWordElements];

  // Leaves the arrays as they are.
  BackwardGroup(const BackwardStep& of, std::int64_t first, std::int64_t keys)
      : step(of), first_key(first), num_keys(keys) {}

  // Key i of the group is seen by rows from this one on.
  std::int64_t first_visible_row(std::int64_t i) const { return first_key + i + step.first_row; }
};

// [keys][rows] = A of the group's keys times panels of the query rows.
inline void multiply_keys_with_rows(const BackwardGroup& group, const Word* keys,
                                    const Word* panels_of_rows, std::int64_t words, float* c) {
  Product product;
  product.rows = group.num_keys;
  product.panels = (group.step.num_rows - group.first_row) / kLanes;
  product.words = words;
  product.a = keys + group.first_key * words;
  product.a_stride = words;
  product.b = panels_of_rows + group.first_row * words;
  product.b_stride = words * kLanes;
  product.c = c + group.first_row;
  product.c_stride = kTileRows;
  multiply<Start::kZero>(product);
}

// Weights and their gradients of one key, at 16 rows: scores become P, d_weights dS.
inline void differentiate_softmax(BackwardGroup& group, std::int64_t i, std::int64_t row) {
  const BackwardStep& step = group.step;
  float* scores = group.scores[i] + row;
  float* d_weights = group.d_weights[i] + row;
  Floats weight =
      exp2(multiply_subtract(load(scores), broadcast(step.scale_log2), load(step.lse_log2 + row)));
  Floats d_score = weight * (load(d_weights) - load(step.delta + row));
  const std::int64_t hidden = group.first_visible_row(i) - row;
  if (hidden > 0) {
    weight = keep_lanes(weight, hidden, kLanes, zeros());
    d_score = keep_lanes(d_score, hidden, kLanes, zeros());
  }
  store_row_of_a(weight, group.weights[i] + row / kWordElements);
  store_row_of_a(d_score, group.d_scores[i] + row / kWordElements);
  store(d_score, d_weights);
}

// dS of the group's keys as a B operand with rows in the lanes: [rows / 16][key words][16].
inline void pack_d_scores(const BackwardGroup& group, std::int64_t panel_stride, Word* to) {
  for (std::int64_t row = 0; row < group.step.num_rows; row += kLanes) {
    Word* panel = to + row / kLanes * panel_stride + group.first_key / kWordElements * kLanes;
    for (std::int64_t i = 0; i < group.num_keys; i += kWordElements, panel += kLanes) {
      Floats of_keys[kWordElements];
      for (std::int64_t e = 0; e < kWordElements; ++e) {
        const bool is_there = row >= group.first_row && i + e < group.num_keys;
        of_keys[e] = is_there ? load(group.d_weights[i + e] + row) : zeros();
      }
      store_words(words_across_rows(of_keys), panel);
    }
  }
}

// c [keys][N] += A [keys][rows] B [rows][N], over the rows that see the group.
inline void multiply_rows_away(const BackwardGroup& group, const Word* a, const Word* by_size,
                               std::int64_t panels, float* c) {
  const std::int64_t row_words = group.step.num_rows / kWordElements;
  Product product;
  product.rows = group.num_keys;
  product.panels = panels;
  product.words = row_words - group.first_row / kWordElements;
  product.a = a + group.first_row / kWordElements;
  product.a_stride = kTileRows / kWordElements;
  product.b = by_size + group.first_row / kWordElements * kLanes;
  product.b_stride = row_words * kLanes;
  product.c_stride = panels * kLanes;
  product.c = c + group.first_key * product.c_stride;
  multiply<Start::kKeep>(product);
}

inline void multiply_keys_away(const BackwardStep& step, std::int64_t num_keys,
                               const Word* d_scores, std::int64_t panel_stride) {
  Product product;
  product.rows = step.qk_panels * kLanes;
  product.panels = step.num_rows / kLanes;
  product.words = (num_keys + kWordElements - 1) / kWordElements;
  product.a = step.keys_transposed;
  product.a_stride = step.keys_transposed_stride;
  product.b = d_scores;
  product.b_stride = panel_stride;
  product.c = step.d_queries_transposed;
  product.c_stride = step.num_rows;
  multiply<Start::kKeep>(product);
}

void backward_step(const BackwardStep& step) {
  // Keys that no row sees add nothing.
  const std::int64_t last = step.num_rows - step.first_row;
  const std::int64_t num_keys = last < step.num_keys ? last : step.num_keys;
  if (num_keys <= 0) return;
  constexpr std::int64_t panel_stride = kStepKeys / kWordElements * kLanes;
  alignas(64) Word d_scores[kTileRows / kLanes * panel_stride];

  for (std::int64_t first = 0; first < num_keys; first += kGroupKeys) {
    const std::int64_t left = num_keys - first;
    BackwardGroup group(step, first, left < kGroupKeys ? left : kGroupKeys);
    const std::int64_t visible_from = group.first_visible_row(0);
    if (visible_from > 0) group.first_row = visible_from / kLanes * kLanes;

    multiply_keys_with_rows(group, step.keys, step.queries, step.qk_words, group.scores[0]);
    multiply_keys_with_rows(group, step.values, step.d_outs, step.v_words, group.d_weights[0]);
    for (std::int64_t i = 0; i < group.num_keys; ++i) {
      for (std::int64_t row = group.first_row; row < step.num_rows; row += kLanes) {
        differentiate_softmax(group, i, row);
      }
    }
    multiply_rows_away(group, group.weights[0], step.d_outs_by_size, step.v_panels, step.d_values);
    multiply_rows_away(group, group.d_scores[0], step.queries_by_size, step.qk_panels, step.d_keys);
    pack_d_scores(group, panel_stride, d_scores);
  }
  multiply_keys_away(step, num_keys, d_scores, panel_stride);
}

}  // namespace
}  // namespace loza::cpu
