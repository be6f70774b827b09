#pragma once

#include "loza/attention/cuda/device/element.cuh"
#include "loza/attention/params.h"

// Decode by its definition, in fp64, one block a query row: the token rule, key by key, and
// the page formula of params.h. Shares nothing with the kernels but the structs.
namespace loza::attention::cuda {

// What the definition gives for row (b, t, h) of V elements, and what a rounding-error bound
// needs: magnitude[d] = sum_j p_j |v_jd| and the largest scale * sum |q k|.
struct DecodeReference {
  double* out;         // [rows, V]
  double* magnitude;   // [rows, V]
  double* lse;         // [rows]
  double* score_size;  // [rows]
};

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

template <typename Element>
__device__ const Element* cached_row(const PagedKvView& kv, std::int64_t b, std::int64_t pos) {
  const std::int32_t page = kv.page_table[b * kv.table_stride + page_slot(kv, pos / kv.page_len)];
  return static_cast<const Element*>(kv.pages) + page * kv.page_stride +
         pos % kv.page_len * kv.row_stride;
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

// Grid: chosen rows, `rows[i]` = (b * q_len + t) * H + h. `scores` [grid, max_length].
template <typename Element>
__global__ void reference_decode(DecodeParams params, const std::int64_t* rows,
                                 std::int64_t max_length, double* scores, DecodeReference result) {
  __shared__ double scratch[256];
  const std::int64_t row = rows[blockIdx.x], h = row % params.num_heads;
  const std::int64_t token = row / params.num_heads, b = token / params.q_len;
  const std::int64_t length = params.kv.lengths[b];
  const std::int64_t q_pos = length - params.q_len + token % params.q_len;
  const std::int64_t g = h / (params.num_heads / params.num_key_heads);
  const auto query = [&](const TensorView& view) {
    return static_cast<const Element*>(view.data) + token * view.token_stride +
           h * view.head_stride;
  };
  const Element* q = query(params.q);
  const Element* sink_q = params.sink_q.data == nullptr ? q : query(params.sink_q);
  scores += blockIdx.x * max_length;

  double most = -INFINITY, score_size = 0;
  for (std::int64_t j = threadIdx.x; j <= q_pos; j += blockDim.x) {
    if (!token_is_visible(params.pattern, q_pos, j)) {
      scores[j] = -INFINITY;
      continue;
    }
    const Element* k = cached_row<Element>(params.kv, b, j) + g * params.kv.k_head_stride;
    const Element* by = is_scored_by_sink_query(params.pattern, q_pos, j) ? sink_q : q;
    double dot = 0, size = 0;
    for (std::int64_t d = 0; d < params.qk_size; ++d) {
      const double product = to_double(by + d) * to_double(k + d);
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
  for (std::int64_t j = threadIdx.x; j <= q_pos; j += blockDim.x) {
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
    for (std::int64_t j = 0; j <= q_pos; ++j) {
      if (scores[j] == 0) continue;
      const double v = to_double(cached_row<Element>(params.kv, b, j) + params.kv.v_offset +
                                 g * params.kv.v_head_stride + d);
      out += scores[j] * v;
      magnitude += scores[j] * fabs(v);
    }
    result.out[blockIdx.x * params.v_size + d] = sum > 0 ? out / sum : 0;
    result.magnitude[blockIdx.x * params.v_size + d] = sum > 0 ? magnitude / sum : 0;
  }
}

}  // namespace loza::attention::cuda
