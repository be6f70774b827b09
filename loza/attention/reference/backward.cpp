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

// to += factor * from, [size].
void add(double* to, double factor, const double* from, std::int64_t size) {
  for (std::int64_t i = 0; i < size; ++i) to[i] += factor * from[i];
}

// The heads that share one key head, of one sequence: query by query.
//   dV_j += P_tj dO_t,   dS_tj = P_tj (dO_t . V_j - dO_t . O_t)
//   dQ_t += scale dS_tj K_j,   dK_j += scale dS_tj Q_t
// where Q_t is the row of sink_q for a key that it scores.
void backward_group(const BackwardParams& params, const SequenceRows& rows, std::int64_t key_head) {
  const ForwardParams& forward = params.forward;
  const DType dtype = forward.dtype;
  const std::int64_t d = forward.qk_size, v = forward.v_size;
  const std::int64_t group = forward.num_heads / forward.num_key_heads;
  const std::int64_t k_len = rows.k_end - rows.k_begin;
  const auto keys = load_head(forward.k, dtype, key_head, rows.k_begin, rows.k_end, d);
  const auto values = load_head(forward.v, dtype, key_head, rows.k_begin, rows.k_end, v);
  std::vector<double> d_keys(keys.size(), 0.0), d_values(values.size(), 0.0);

  for (std::int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
    const auto queries = load_head(forward.q, dtype, head, rows.q_begin, rows.q_end, d);
    const auto d_outs = load_head(params.d_out, dtype, head, rows.q_begin, rows.q_end, v);
    const bool has_sink_q = forward.sink_q.data != nullptr;
    const auto sink_queries =
        has_sink_q ? load_head(forward.sink_q, dtype, head, rows.q_begin, rows.q_end, d)
                   : std::vector<double>();
    std::vector<double> d_queries(queries.size(), 0.0), d_sink_queries(sink_queries.size(), 0.0);
    for (std::int64_t t = 0; t < rows.q_end - rows.q_begin; ++t) {
      const std::int64_t query_pos = rows.first_query_pos() + t;
      std::vector<std::int64_t> seen;
      std::vector<double> scores;
      std::vector<const double*> seen_values;
      const auto by_sink_query = [&](std::int64_t pos) {
        return has_sink_q && is_apart(forward.pattern, query_pos, pos);
      };
      const auto query_of = [&](std::int64_t pos) {
        return (by_sink_query(pos) ? sink_queries : queries).data() + t * d;
      };
      for (std::int64_t pos = 0; query_pos >= 0 && pos < k_len; ++pos) {
        if (!is_visible(forward.pattern, query_pos, pos)) continue;
        seen.push_back(pos);
        scores.push_back(forward.scale * dot(query_of(pos), keys.data() + pos * d, d));
        seen_values.push_back(values.data() + pos * v);
      }
      const double* d_out = d_outs.data() + t * v;
      const Weights weights = weights_of(scores);
      const auto out = weighted_sum(weights.of_key, seen_values, v);
      const double delta = dot(d_out, out.data(), v);
      for (std::size_t j = 0; j < seen.size(); ++j) {
        const double weight = weights.of_key[j];
        const double d_score = forward.scale * weight * (dot(d_out, seen_values[j], v) - delta);
        add(d_values.data() + seen[j] * v, weight, d_out, v);
        add(d_keys.data() + seen[j] * d, d_score, query_of(seen[j]), d);
        add((by_sink_query(seen[j]) ? d_sink_queries : d_queries).data() + t * d, d_score,
            keys.data() + seen[j] * d, d);
      }
    }
    store_head(d_queries, params.d_q, dtype, head, rows.q_begin, rows.q_end, d);
    if (has_sink_q) {
      store_head(d_sink_queries, params.d_sink_q, dtype, head, rows.q_begin, rows.q_end, d);
    }
  }
  store_head(d_keys, params.d_k, dtype, key_head, rows.k_begin, rows.k_end, d);
  store_head(d_values, params.d_v, dtype, key_head, rows.k_begin, rows.k_end, v);
}

}  // namespace

void attend_backward(const BackwardParams& params) {
  check_params(params);
  for (std::int64_t b = 0; b < params.forward.num_sequences; ++b) {
    const SequenceRows rows = sequence_rows(params.forward, b);
    parallel_for(params.forward.num_key_heads,
                 [&](std::int64_t key_head) { backward_group(params, rows, key_head); });
  }
}

}  // namespace loza::reference
