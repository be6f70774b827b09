#include <cstddef>
#include <cstdint>
#include <vector>

#include "loza/attention/check_params.h"
#include "loza/attention/reference/reference.h"
#include "loza/attention/reference/rows.h"
#include "loza/attention/reference/softmax.h"
#include "loza/attention/reference/visible.h"
#include "loza/base/parallel_for.h"

namespace loza::reference {
namespace {

// First element of the row that holds a position.
std::int64_t row_element(const PagedKvView& kv, std::int64_t sequence_idx, std::int64_t pos) {
  const std::int64_t slot = page_slot(kv, pos / kv.page_len);
  const std::int64_t page = kv.page_table[sequence_idx * kv.table_stride + slot];
  return page * kv.page_stride + pos % kv.page_len * kv.row_stride;
}

std::vector<double> load_run(DType dtype, const void* data, std::int64_t begin, std::int64_t size) {
  std::vector<double> run;
  for (std::int64_t i = 0; i < size; ++i) run.push_back(load_element(dtype, data, begin + i));
  return run;
}

std::vector<const double*> pointers(const std::vector<std::vector<double>>& rows) {
  std::vector<const double*> pointers;
  for (const auto& row : rows) pointers.push_back(row.data());
  return pointers;
}

// One query row: token t of sequence b, one head.
void attend_row(const DecodeParams& params, std::int64_t b, std::int64_t t, std::int64_t head) {
  const PagedKvView& kv = params.kv;
  const std::int64_t query_pos = kv.lengths[b] - params.q_len + t;
  const std::int64_t key_head = head / (params.num_heads / params.num_key_heads);
  const std::int64_t token = b * params.q_len + t;
  const auto query_of = [&](const TensorView& queries) {
    return load_run(kv.dtype, queries.data,
                    token * queries.token_stride + head * queries.head_stride, params.qk_size);
  };
  const auto query = query_of(params.q);
  const auto sink_query = params.sink_q.data == nullptr ? query : query_of(params.sink_q);
  std::vector<double> scores;
  std::vector<std::vector<double>> values;
  for (std::int64_t pos = 0; pos <= query_pos; ++pos) {
    if (!is_visible(params.pattern, query_pos, pos)) continue;
    const std::int64_t row = row_element(kv, b, pos);
    const auto key =
        load_run(kv.dtype, kv.pages, row + key_head * kv.k_head_stride, params.qk_size);
    const auto& scoring = is_apart(params.pattern, query_pos, pos) ? sink_query : query;
    scores.push_back(params.scale * dot(scoring.data(), key.data(), params.qk_size));
    values.push_back(load_run(kv.dtype, kv.pages, row + kv.v_offset + key_head * kv.v_head_stride,
                              params.v_size));
  }
  const Weights weights = weights_of(scores);
  const auto out = weighted_sum(weights.of_key, pointers(values), params.v_size);
  for (std::int64_t i = 0; i < params.v_size; ++i) {
    store_element(kv.dtype, params.out.data,
                  token * params.out.token_stride + head * params.out.head_stride + i,
                  out[static_cast<std::size_t>(i)]);
  }
  if (params.lse != nullptr) {
    params.lse[token * params.num_heads + head] = static_cast<float>(weights.lse);
  }
}

}  // namespace

void attend_paged(const DecodeParams& params) {
  check_params(params);
  const std::int64_t rows_per_sequence = params.q_len * params.num_heads;
  parallel_for(params.num_sequences * rows_per_sequence, [&](std::int64_t i) {
    const std::int64_t row = i % rows_per_sequence;
    attend_row(params, i / rows_per_sequence, row / params.num_heads, row % params.num_heads);
  });
}

}  // namespace loza::reference
