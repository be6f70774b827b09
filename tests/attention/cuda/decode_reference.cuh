#pragma once

#include "tests/attention/cuda/reference.cuh"

// Decode by its definition: keys lie where the page formula of params.h says.
namespace loza::attention::cuda {

// Those of sequence b that key head g has.
template <typename Element>
struct PagedKeys {
  PagedKvView kv;
  std::int64_t b, g;

  __device__ bool has(std::int64_t) const { return true; }
  __device__ double key(std::int64_t pos, std::int64_t d) const {
    return to_double(row(pos) + g * kv.k_head_stride + d);
  }
  __device__ double value(std::int64_t pos, std::int64_t d) const {
    return to_double(row(pos) + kv.v_offset + g * kv.v_head_stride + d);
  }
  __device__ const Element* row(std::int64_t pos) const {
    const std::int32_t page = kv.page_table[b * kv.table_stride + page_slot(kv, pos / kv.page_len)];
    return static_cast<const Element*>(kv.pages) + page * kv.page_stride +
           pos % kv.page_len * kv.row_stride;
  }
};

// Grid: chosen rows, `rows[i]` = (b * q_len + t) * H + h.
template <typename Element>
__global__ void reference_decode(DecodeParams params, const std::int64_t* rows,
                                 std::int64_t max_length, double* scores, TruthOnDevice result) {
  const std::int64_t row = rows[blockIdx.x], h = row % params.num_heads;
  const std::int64_t token = row / params.num_heads, b = token / params.q_len;
  const std::int64_t pos = params.kv.lengths[b] - params.q_len + token % params.q_len;
  const std::int64_t g = h / (params.num_heads / params.num_key_heads);
  attend_by_definition<Element>(params, token, h, pos, PagedKeys<Element>{params.kv, b, g},
                                max_length, scores, result);
}

// Of `rows` as above. REQUIRES: no sequence is longer than max_length.
inline Truth decode_truth(const DecodeParams& params, const std::vector<std::int64_t>& rows,
                          std::int64_t max_length) {
  const DeviceArray<std::int64_t> device_rows(rows);
  const auto n = static_cast<std::int64_t>(rows.size());
  const auto kernel =
      params.kv.dtype == DType::kBF16 ? reference_decode<bf16> : reference_decode<fp16>;
  return compute_truth(n, params.v_size, max_length, [&](double* scores, TruthOnDevice result) {
    kernel<<<n, 256>>>(params, device_rows.data(), max_length, scores, result);
  });
}

}  // namespace loza::attention::cuda
