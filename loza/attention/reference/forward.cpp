#include <cstddef>
#include <vector>

#include "loza/attention/check_params.h"
#include "loza/attention/reference/reference.h"
#include "loza/attention/reference/rows.h"
#include "loza/attention/reference/softmax.h"
#include "loza/attention/reference/visible.h"
#include "loza/attention/sequence.h"
#include "loza/base/parallel_for.h"

namespace loza::reference {
namespace {

// A key that a query sees.
struct SeenKey {
  std::int64_t row = 0;  // counted from the sequence's first
  bool by_sink_query = false;
};

std::vector<SeenKey> visible_rows(const SequenceRows& rows, const ForwardParams& params,
                                  std::int64_t query_pos) {
  std::vector<SeenKey> visible;
  if (query_pos < 0) return visible;
  for (std::int64_t pos = 0; pos < rows.end_pos(); ++pos) {
    if (rows.is_absent(pos) || !is_visible(params.pattern, query_pos, pos)) continue;
    visible.push_back({rows.key_row(pos) - rows.k_begin,
                       params.sink_q.data != nullptr && is_apart(params.pattern, query_pos, pos)});
  }
  return visible;
}

void attend_head(const ForwardParams& params, const SequenceRows& rows, std::int64_t head_idx,
                 const std::vector<std::vector<SeenKey>>& visible_of_query) {
  const std::int64_t key_head = head_idx / (params.num_heads / params.num_key_heads);
  const std::int64_t d = params.qk_size, v = params.v_size;
  const auto queries = load_head(params.q, params.dtype, head_idx, rows.q_begin, rows.q_end, d);
  const auto sink_queries =
      params.sink_q.data == nullptr
          ? queries
          : load_head(params.sink_q, params.dtype, head_idx, rows.q_begin, rows.q_end, d);
  const auto keys = load_head(params.k, params.dtype, key_head, rows.k_begin, rows.k_end, d);
  const auto values = load_head(params.v, params.dtype, key_head, rows.k_begin, rows.k_end, v);
  std::vector<double> out;
  for (std::int64_t t = 0; t < rows.q_end - rows.q_begin; ++t) {
    std::vector<double> scores;
    std::vector<const double*> seen_values;
    for (const SeenKey& key : visible_of_query[static_cast<std::size_t>(t)]) {
      const double* query = (key.by_sink_query ? sink_queries : queries).data() + t * d;
      scores.push_back(params.scale * dot(query, keys.data() + key.row * d, d));
      seen_values.push_back(values.data() + key.row * v);
    }
    const Weights weights = weights_of(scores);
    const auto sum = weighted_sum(weights.of_key, seen_values, v);
    out.insert(out.end(), sum.begin(), sum.end());
    if (params.lse != nullptr) {
      params.lse[(rows.q_begin + t) * params.num_heads + head_idx] =
          static_cast<float>(weights.lse);
    }
  }
  store_head(out, params.out, params.dtype, head_idx, rows.q_begin, rows.q_end, v);
}

}  // namespace

void attend(const ForwardParams& params) {
  check_params(params);
  for (std::int64_t b = 0; b < params.num_sequences; ++b) {
    const SequenceRows rows = sequence_rows(params, b);
    std::vector<std::vector<SeenKey>> visible_of_query;
    for (std::int64_t t = 0; t < rows.q_end - rows.q_begin; ++t) {
      visible_of_query.push_back(visible_rows(rows, params, rows.first_query_pos() + t));
    }
    parallel_for(params.num_heads, [&](std::int64_t head_idx) {
      attend_head(params, rows, head_idx, visible_of_query);
    });
  }
}

}  // namespace loza::reference
