#pragma once

#include "loza/attention/cuda/prefill.h"
#include "tests/attention/cuda/decode_reference.cuh"

// Prefill by its definition, in fp64, one block a query row. Shares nothing with the kernels
// but the structs.
namespace loza::attention::cuda {

// A row of the output, and where its sequence's keys lie.
struct ReferenceRow {
  std::int64_t row, head, pos;
  std::int64_t k_begin, kept_prefix, skipped;
};

template <typename Element>
struct ReferenceKeys {
  ForwardParams params;  // offsets are not looked at
  SharedKeyTail tail;

  __device__ double key(std::int64_t row, std::int64_t head, std::int64_t d) const {
    const std::int64_t own = params.qk_size - (tail.data == nullptr ? 0 : 64);
    const Element* at =
        d < own ? static_cast<const Element*>(params.k.data) + row * params.k.token_stride +
                      head * params.k.head_stride + d
                : static_cast<const Element*>(tail.data) + row * tail.token_stride + d - own;
    return to_double(at);
  }
  __device__ double value(std::int64_t row, std::int64_t head, std::int64_t d) const {
    return to_double(static_cast<const Element*>(params.v.data) + row * params.v.token_stride +
                     head * params.v.head_stride + d);
  }
};

// Grid: chosen rows. `scores` [grid, max_keys]; result arrays as in decode_reference.cuh.
template <typename Element>
__global__ void reference_prefill(ReferenceKeys<Element> in, const ReferenceRow* rows,
                                  std::int64_t max_keys, double* scores, DecodeReference result) {
  __shared__ double scratch[256];
  const ForwardParams& params = in.params;
  const ReferenceRow at = rows[blockIdx.x];
  const std::int64_t g = at.head / (params.num_heads / params.num_key_heads);
  const auto query = [&](const TensorView& view) {
    return static_cast<const Element*>(view.data) + at.row * view.token_stride +
           at.head * view.head_stride;
  };
  const Element* q = query(params.q);
  const Element* sink_q = params.sink_q.data == nullptr ? q : query(params.sink_q);
  const auto row_of = [&](std::int64_t pos) {
    return at.k_begin + pos - (pos < at.kept_prefix ? 0 : at.skipped);
  };
  const auto is_seen = [&](std::int64_t pos) {
    const bool absent = pos >= at.kept_prefix && pos < at.kept_prefix + at.skipped;
    return !absent && token_is_visible(params.pattern, at.pos, pos);
  };
  scores += blockIdx.x * max_keys;

  double most = -INFINITY, score_size = 0;
  for (std::int64_t j = threadIdx.x; j <= at.pos; j += blockDim.x) {
    scores[j] = -INFINITY;
    if (!is_seen(j)) continue;
    const Element* by = is_scored_by_sink_query(params.pattern, at.pos, j) ? sink_q : q;
    double dot = 0, size = 0;
    for (std::int64_t d = 0; d < params.qk_size; ++d) {
      const double product = to_double(by + d) * in.key(row_of(j), g, d);
      dot += product;
      size += fabs(product);
    }
    scores[j] = dot * params.scale;
    most = fmax(most, scores[j]);
    score_size = fmax(score_size, size * params.scale);
  }
  most = reduce(most, true, scratch);
  score_size = reduce(score_size, true, scratch);
  double sum = 0;
  for (std::int64_t j = threadIdx.x; j <= at.pos; j += blockDim.x) {
    scores[j] = exp(scores[j] - most);
    sum += scores[j];
  }
  sum = reduce(sum, false, scratch);
  if (threadIdx.x == 0) {
    result.lse[blockIdx.x] = sum > 0 ? most + log(sum) : -INFINITY;
    result.score_size[blockIdx.x] = score_size;
  }
  for (std::int64_t d = threadIdx.x; d < params.v_size; d += blockDim.x) {
    double out = 0, magnitude = 0;
    for (std::int64_t j = 0; j <= at.pos; ++j) {
      if (scores[j] == 0) continue;
      const double v = in.value(row_of(j), g, d);
      out += scores[j] * v;
      magnitude += scores[j] * fabs(v);
    }
    result.out[blockIdx.x * params.v_size + d] = sum > 0 ? out / sum : 0;
    result.magnitude[blockIdx.x * params.v_size + d] = sum > 0 ? magnitude / sum : 0;
  }
}

}  // namespace loza::attention::cuda
