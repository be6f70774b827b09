#pragma once

#include "loza/attention/cuda/prefill.h"
#include "tests/attention/cuda/reference.cuh"

// Prefill by its definition: keys lie one behind another, some left out, their tail apart.
namespace loza::attention::cuda {

// A row of the output, and where its sequence's keys lie.
struct ReferenceRow {
  std::int64_t row, head, pos;
  std::int64_t k_begin, kept_prefix, skipped;
};

// Those of the row's sequence that key head g has.
template <typename Element>
struct ContiguousKeys {
  ForwardParams params;  // offsets are not looked at
  SharedKeyTail tail;
  ReferenceRow at;
  std::int64_t g;

  __device__ bool has(std::int64_t pos) const {
    return pos < at.kept_prefix || pos >= at.kept_prefix + at.skipped;
  }
  __device__ double key(std::int64_t pos, std::int64_t d) const {
    const std::int64_t own = params.qk_size - (tail.data == nullptr ? 0 : 64);
    return to_double(d < own ? static_cast<const Element*>(params.k.data) +
                                   row(pos) * params.k.token_stride + g * params.k.head_stride + d
                             : static_cast<const Element*>(tail.data) +
                                   row(pos) * tail.token_stride + d - own);
  }
  __device__ double value(std::int64_t pos, std::int64_t d) const {
    return to_double(static_cast<const Element*>(params.v.data) + row(pos) * params.v.token_stride +
                     g * params.v.head_stride + d);
  }
  __device__ std::int64_t row(std::int64_t pos) const {
    return at.k_begin + pos - (pos < at.kept_prefix ? 0 : at.skipped);
  }
};

// Grid: chosen rows.
template <typename Element>
__global__ void reference_prefill(ForwardParams params, SharedKeyTail tail,
                                  const ReferenceRow* rows, std::int64_t max_keys, double* scores,
                                  TruthOnDevice result) {
  const ReferenceRow at = rows[blockIdx.x];
  const std::int64_t g = at.head / (params.num_heads / params.num_key_heads);
  attend_by_definition<Element>(params, at.row, at.head, at.pos,
                                ContiguousKeys<Element>{params, tail, at, g}, max_keys, scores,
                                result);
}

// REQUIRES: no row has max_keys positions before it.
inline Truth prefill_truth(const ForwardParams& params, const SharedKeyTail& tail,
                           const std::vector<ReferenceRow>& rows, std::int64_t max_keys) {
  const DeviceArray<ReferenceRow> device_rows(rows);
  const auto n = static_cast<std::int64_t>(rows.size());
  const auto kernel =
      params.dtype == DType::kBF16 ? reference_prefill<bf16> : reference_prefill<fp16>;
  return compute_truth(n, params.v_size, max_keys, [&](double* scores, TruthOnDevice result) {
    kernel<<<n, 256>>>(params, tail, device_rows.data(), max_keys, scores, result);
  });
}

}  // namespace loza::attention::cuda
