#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

#include "loza/attention/attention.h"
#include "loza/attention/cuda/status.h"

// The door to the kernels for Hopper (cuda/) from tensors. A build without them, or another
// device, is a refusal like any other.
namespace loza::attention::on_hopper {

// ok, or why these kernels do not take a call of attend(): the message names what is missing.
cuda::Status check(const Queries& queries, const at::Tensor& k, const at::Tensor& v,
                   const BlockPattern& pattern, double scale);

// -> out [T, H, V], lse [T, H] fp32. No gradients. REQUIRES: check().ok().
std::pair<at::Tensor, at::Tensor> attend_with_lse(const Queries& queries, const at::Tensor& k,
                                                  const at::Tensor& v, const Sequences& sequences,
                                                  const BlockPattern& pattern, double scale);

// The same of attend_paged(): the pages lie on q's device, the table and the lengths on the host.
cuda::Status check_paged(const Queries& queries, const PagedKvView& kv, std::int64_t num_sequences,
                         std::int64_t num_key_heads, std::int64_t v_size,
                         const BlockPattern& pattern, double scale);

// REQUIRES: check_paged().ok().
at::Tensor attend_paged(const Queries& queries, const PagedKvView& kv, std::int64_t num_sequences,
                        std::int64_t num_key_heads, std::int64_t v_size,
                        const BlockPattern& pattern, double scale);

// The same with the table and the lengths on the device too, and nothing read from there: a call
// that a CUDA graph can capture. `max_length` bounds the lengths; stable_prefix is the promise of
// Inputs::kStablePrefix (cuda/decode.h).
at::Tensor attend_paged_on_device(const Queries& queries, const PagedKvView& kv,
                                  std::int64_t num_sequences, std::int64_t num_key_heads,
                                  std::int64_t v_size, const BlockPattern& pattern, double scale,
                                  std::int64_t max_length, bool stable_prefix);

// Whether merge() takes outputs like `out` [T, H, V].
cuda::Status check_merge(const at::Tensor& out);

// As attention::merge. REQUIRES: check_merge(out_a).ok(), and the same sizes and dtypes of both.
std::pair<at::Tensor, at::Tensor> merge(const at::Tensor& out_a, const at::Tensor& lse_a,
                                        const at::Tensor& out_b, const at::Tensor& lse_b);

}  // namespace loza::attention::on_hopper
