#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "loza/attention/params.h"
#include "loza/attention/reference/rows.h"
#include "loza/attention/reference/visible.h"
#include "loza/attention/sequence.h"
#include "loza/base/dtype.h"

// Attention as someone would write it plainly with tensors of the dtype: each operation
// accumulates in fp32 and rounds its result. Its error is the measure for the kernels'.
namespace loza::testing {

class LowPrecision {
 public:
  explicit LowPrecision(const ForwardParams& params)
      : params_(params),
        q_(load(params.q, num_queries(), params.num_heads, params.qk_size)),
        k_(load(params.k, num_keys(), params.num_key_heads, params.qk_size)),
        v_(load(params.v, num_keys(), params.num_key_heads, params.v_size)) {}

  std::vector<double> out, lse;       // as in ForwardParams, contiguous
  std::vector<double> d_q, d_k, d_v;  // by backward()

  void forward() {
    out.assign(size(num_queries() * params_.num_heads * params_.v_size), 0);
    lse.assign(size(num_queries() * params_.num_heads), 0);
    for_each_row([&](const SequenceRows& rows, std::int64_t token, std::int64_t head) {
      const Row row = row_of(rows, token, head);
      store(lse, token * params_.num_heads + head, row.lse);
      for (std::int64_t i = 0; i < params_.v_size; ++i) {
        store(out, (token * params_.num_heads + head) * params_.v_size + i, row.out[size(i)]);
      }
    });
  }

  void backward(const TensorView& d_out) {
    std::vector<float> d_q_sum(q_.size(), 0), d_k_sum(k_.size(), 0), d_v_sum(v_.size(), 0);
    const std::vector<float> d_outs = load(d_out, num_queries(), params_.num_heads, params_.v_size);
    for_each_row([&](const SequenceRows& rows, std::int64_t token, std::int64_t head) {
      const Row row = row_of(rows, token, head);
      const std::int64_t key_head = head / group();
      const float* query = q_.data() + (token * params_.num_heads + head) * params_.qk_size;
      const float* d_row = d_outs.data() + (token * params_.num_heads + head) * params_.v_size;
      float* d_query = d_q_sum.data() + (token * params_.num_heads + head) * params_.qk_size;
      float delta = 0;
      for (std::int64_t i = 0; i < params_.v_size; ++i) delta += row.out[size(i)] * d_row[i];
      delta = round(delta);
      for (std::size_t j = 0; j < row.keys.size(); ++j) {
        const std::int64_t key_row = row.keys[j] * params_.num_key_heads + key_head;
        const float* key = k_.data() + key_row * params_.qk_size;
        const float* value = v_.data() + key_row * params_.v_size;
        float* d_key = d_k_sum.data() + key_row * params_.qk_size;
        float* d_value = d_v_sum.data() + key_row * params_.v_size;
        float d_weight = 0;
        for (std::int64_t i = 0; i < params_.v_size; ++i) {
          d_weight += d_row[i] * value[i];
          d_value[i] += row.weights[j] * d_row[i];
        }
        const float d_score = round(round(row.weights[j] * round(round(d_weight) - delta)) *
                                    static_cast<float>(params_.scale));
        for (std::int64_t i = 0; i < params_.qk_size; ++i) {
          d_query[i] += d_score * key[i];
          d_key[i] += d_score * query[i];
        }
      }
    });
    const auto rounded = [&](const std::vector<float>& sum) {
      std::vector<double> values;
      for (const float x : sum) values.push_back(round(x));
      return values;
    };
    d_q = rounded(d_q_sum);
    d_k = rounded(d_k_sum);
    d_v = rounded(d_v_sum);
  }

 private:
  // One query's row of the score matrix.
  struct Row {
    std::vector<std::int64_t> keys;  // that it sees
    std::vector<float> weights, out;
    float lse = 0;
  };

  static std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }
  void store(std::vector<double>& to, std::int64_t i, double value) const { to[size(i)] = value; }
  std::int64_t group() const { return params_.num_heads / params_.num_key_heads; }
  std::int64_t num_queries() const { return params_.q_offsets[params_.num_sequences]; }
  std::int64_t num_keys() const { return params_.k_offsets[params_.num_sequences]; }

  float round(float x) const {
    return params_.dtype == DType::kBF16 ? static_cast<float>(BFloat16(x)) : x;
  }
  std::vector<float> load(const TensorView& view, std::int64_t tokens, std::int64_t heads,
                          std::int64_t row_size) const {
    std::vector<float> values;
    for (std::int64_t i = 0; i < tokens * heads * row_size; ++i) {
      const std::int64_t row = i / row_size;
      values.push_back(static_cast<float>(reference::load_element(
          params_.dtype, view.data,
          row / heads * view.token_stride + row % heads * view.head_stride + i % row_size)));
    }
    return values;
  }

  template <typename Visit>
  void for_each_row(const Visit& visit) const {
    for (std::int64_t b = 0; b < params_.num_sequences; ++b) {
      const SequenceRows rows = sequence_rows(params_, b);
      for (std::int64_t token = rows.q_begin; token < rows.q_end; ++token) {
        for (std::int64_t head = 0; head < params_.num_heads; ++head) visit(rows, token, head);
      }
    }
  }

  Row row_of(const SequenceRows& rows, std::int64_t token, std::int64_t head) const {
    Row row;
    const std::int64_t query_pos = rows.first_query_pos() + token - rows.q_begin;
    const std::int64_t key_head = head / group();
    const float* query = q_.data() + (token * params_.num_heads + head) * params_.qk_size;
    std::vector<float> scores;
    float max = -std::numeric_limits<float>::infinity();
    for (std::int64_t pos = 0; pos <= query_pos; ++pos) {
      if (rows.is_absent(pos) || !reference::is_visible(params_.pattern, query_pos, pos)) continue;
      row.keys.push_back(rows.key_row(pos));
      const float* key =
          k_.data() + (row.keys.back() * params_.num_key_heads + key_head) * params_.qk_size;
      float score = 0;
      for (std::int64_t i = 0; i < params_.qk_size; ++i) score += query[i] * key[i];
      scores.push_back(round(round(score) * static_cast<float>(params_.scale)));
      max = std::fmax(max, scores.back());
    }
    float sum = 0;
    for (const float score : scores) sum += std::exp(score - max);
    row.lse = max + std::log(sum);
    row.out.assign(size(params_.v_size), 0);
    for (std::size_t j = 0; j < scores.size(); ++j) {
      row.weights.push_back(round(std::exp(scores[j] - max) / sum));
      const float* value =
          v_.data() + (row.keys[j] * params_.num_key_heads + key_head) * params_.v_size;
      for (std::int64_t i = 0; i < params_.v_size; ++i) {
        row.out[size(i)] += row.weights[j] * value[i];
      }
    }
    for (float& x : row.out) x = round(x);
    return row;
  }

  const ForwardParams params_;
  const std::vector<float> q_, k_, v_;  // contiguous
};

}  // namespace loza::testing
