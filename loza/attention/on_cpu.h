#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>
#include <utility>

#include "loza/attention/attention.h"

// From CPU tensors to the structs of params.h and the kernels: fp32 and bf16 by cpu/, fp64 and
// fp16 by reference/. Outer strides are taken as they are; a tensor whose last dimension is not
// contiguous is copied. Nothing here knows of gradients' graphs.
namespace loza::attention::on_cpu {

enum class WithLse : bool { kNo, kYes };

// -> out [T, H, V], lse [T, H] fp32 or undefined.
std::pair<at::Tensor, at::Tensor> attend(const Queries& queries, const at::Tensor& k,
                                         const at::Tensor& v, const Sequences& sequences,
                                         const BlockPattern& pattern, double scale,
                                         WithLse with_lse);

struct Wanted {
  bool d_q = true, d_sink_q = true, d_k = true, d_v = true;
};

struct Gradients {
  at::Tensor d_q, d_sink_q, d_k, d_v;  // undefined where not wanted; d_sink_q without sink_q too
};

// out and lse are attend()'s.
Gradients attend_backward(const Queries& queries, const at::Tensor& k, const at::Tensor& v,
                          const at::Tensor& out, const at::Tensor& lse, const at::Tensor& d_out,
                          const Sequences& sequences, const BlockPattern& pattern, double scale,
                          Wanted wanted);

// As attention::attend_paged.
at::Tensor attend_paged(const Queries& queries, const PagedKvView& kv, std::int64_t num_sequences,
                        std::int64_t num_key_heads, std::int64_t v_size,
                        const BlockPattern& pattern, double scale);

}  // namespace loza::attention::on_cpu
