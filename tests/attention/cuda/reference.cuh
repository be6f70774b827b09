#pragma once

#include "loza/attention/params.h"
#include "tests/attention/cuda/truth.cuh"

// Attention of a query row by its definition, in fp64, one block a row: the token rule, key by
// key. Shares nothing with the kernels but the structs.
namespace loza::attention::cuda {

template <typename Element>
__device__ double to_double(const Element* p) {
  return static_cast<double>(static_cast<float>(*p));
}

__device__ inline bool token_is_visible(const BlockPattern& pattern, std::int64_t q,
                                        std::int64_t k) {
  if (k > q) return false;
  const std::int64_t query_block = q / pattern.block_size, key_block = k / pattern.block_size;
  return key_block < pattern.sink_blocks || key_block > query_block - pattern.recent_blocks;
}

// Whether the query's second query scores the key: it lies in the sink, and the sink apart from
// the recent blocks.
__device__ inline bool is_scored_by_sink_query(const BlockPattern& pattern, std::int64_t q,
                                               std::int64_t k) {
  const std::int64_t first_recent = q / pattern.block_size - pattern.recent_blocks + 1;
  return first_recent > pattern.sink_blocks && k / pattern.block_size < pattern.sink_blocks;
}

__device__ inline double reduce(double value, bool maximum, double* scratch) {
  scratch[threadIdx.x] = value;
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      const double other = scratch[threadIdx.x + half];
      scratch[threadIdx.x] =
          maximum ? fmax(scratch[threadIdx.x], other) : scratch[threadIdx.x] + other;
    }
    __syncthreads();
  }
  const double result = scratch[0];
  __syncthreads();
  return result;
}

// Row blockIdx.x of the result: the query at `row` and `head` of `params` (Forward or Decode),
// which has position `pos`. `keys` has the keys and values that its head reads, in its sequence:
//   has(pos), key(pos, d), value(pos, d), the last two of visible positions alone.
// `scores` [grid, max_keys] is scratch memory. REQUIRES: blocks of 256 threads at most.
template <typename Element, typename Params, typename Keys>
__device__ void attend_by_definition(const Params& params, std::int64_t row, std::int64_t head,
                                     std::int64_t pos, const Keys& keys, std::int64_t max_keys,
                                     double* scores, const TruthOnDevice& result) {
  __shared__ double scratch[256];
  const auto query = [&](const TensorView& view) {
    return static_cast<const Element*>(view.data) + row * view.token_stride +
           head * view.head_stride;
  };
  const Element* q = query(params.q);
  const Element* sink_q = params.sink_q.data == nullptr ? q : query(params.sink_q);
  scores += blockIdx.x * max_keys;

  double most = -INFINITY, score_size = 0;
  for (std::int64_t j = threadIdx.x; j <= pos; j += blockDim.x) {
    scores[j] = -INFINITY;
    if (!keys.has(j) || !token_is_visible(params.pattern, pos, j)) continue;
    const Element* by = is_scored_by_sink_query(params.pattern, pos, j) ? sink_q : q;
    double dot = 0, size = 0;
    for (std::int64_t d = 0; d < params.qk_size; ++d) {
      const double product = to_double(by + d) * keys.key(j, d);
      dot += product;
      size += fabs(product);
    }
    scores[j] = dot * params.scale;
    most = fmax(most, scores[j]);
    score_size = fmax(score_size, size * fabs(params.scale));
  }
  most = reduce(most, true, scratch);
  score_size = reduce(score_size, true, scratch);
  double sum = 0;
  for (std::int64_t j = threadIdx.x; j <= pos; j += blockDim.x) {
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
    for (std::int64_t j = 0; j <= pos; ++j) {
      if (scores[j] == 0) continue;
      const double v = keys.value(j, d);
      out += scores[j] * v;
      magnitude += scores[j] * fabs(v);
    }
    result.out[blockIdx.x * params.v_size + d] = sum > 0 ? out / sum : 0;
    result.magnitude[blockIdx.x * params.v_size + d] = sum > 0 ? magnitude / sum : 0;
  }
}

}  // namespace loza::attention::cuda
