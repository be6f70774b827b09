#include "loza/attention/on_cpu.h"

#include <torch/torch.h>

#include "loza/attention/cpu/cpu.h"
#include "loza/attention/reference/reference.h"
#include "loza/base/check.h"

namespace loza::attention::on_cpu {
namespace {

bool has_kernels(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16; }

// The tensor itself when its rows are contiguous.
at::Tensor with_contiguous_rows(const at::Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  return tensor.size(2) == 1 || tensor.stride(2) == 1 ? tensor : tensor.contiguous();
}

TensorView view_of(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  return {tensor.data_ptr(), tensor.stride(0), tensor.stride(1)};
}

const std::int64_t* data_or_null(const std::vector<std::int64_t>& values) {
  return values.empty() ? nullptr : values.data();
}

// REQUIRES: the tensors have contiguous rows, and outlive the params, as do the sequences.
ForwardParams forward_params(const at::Tensor& q, const at::Tensor& sink_q, const at::Tensor& k,
                             const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                             const Sequences& sequences, const BlockPattern& pattern,
                             double scale) {
  ForwardParams params;
  params.dtype = dtype_of(q.scalar_type());
  params.num_sequences = sequences.size();
  params.num_heads = q.size(1);
  params.num_key_heads = k.size(1);
  params.qk_size = q.size(2);
  params.v_size = v.size(2);
  params.q_offsets = sequences.q_offsets.data();
  params.k_offsets = sequences.k_offsets.data();
  params.kept_prefix = data_or_null(sequences.kept_prefix);
  params.skipped = data_or_null(sequences.skipped);
  params.pattern = pattern;
  params.scale = scale;
  params.q = view_of(q);
  params.sink_q = view_of(sink_q);
  params.k = view_of(k);
  params.v = view_of(v);
  params.out = view_of(out);
  params.lse = lse.defined() ? lse.data_ptr<float>() : nullptr;
  return params;
}

}  // namespace

std::pair<at::Tensor, at::Tensor> attend(const Queries& queries, const at::Tensor& k,
                                         const at::Tensor& v, const Sequences& sequences,
                                         const BlockPattern& pattern, double scale,
                                         WithLse with_lse) {
  const at::NoGradGuard no_grad;
  const at::Tensor& q = queries.q;
  const at::Tensor q_rows = with_contiguous_rows(q),
                   sink_q_rows = with_contiguous_rows(queries.sink_q),
                   k_rows = with_contiguous_rows(k), v_rows = with_contiguous_rows(v);
  const at::Tensor out = at::empty({q.size(0), q.size(1), v.size(2)}, q.options());
  at::Tensor lse;
  if (with_lse == WithLse::kYes) {
    lse = at::empty({q.size(0), q.size(1)}, q.options().dtype(at::kFloat));
  }
  const ForwardParams params =
      forward_params(q_rows, sink_q_rows, k_rows, v_rows, out, lse, sequences, pattern, scale);
  has_kernels(params.dtype) ? cpu::attend(params) : reference::attend(params);
  return {out, lse};
}

Gradients attend_backward(const Queries& queries, const at::Tensor& k, const at::Tensor& v,
                          const at::Tensor& out, const at::Tensor& lse, const at::Tensor& d_out,
                          const Sequences& sequences, const BlockPattern& pattern, double scale,
                          Wanted wanted) {
  const at::NoGradGuard no_grad;
  const at::Tensor q_rows = with_contiguous_rows(queries.q),
                   sink_q_rows = with_contiguous_rows(queries.sink_q),
                   k_rows = with_contiguous_rows(k), v_rows = with_contiguous_rows(v),
                   d_out_rows = with_contiguous_rows(d_out);
  const auto empty_like = [](const at::Tensor& tensor, bool is_wanted) {
    return is_wanted && tensor.defined() ? at::empty(tensor.sizes(), tensor.options())
                                         : at::Tensor();
  };
  const Gradients gradients{empty_like(queries.q, wanted.d_q),
                            empty_like(queries.sink_q, wanted.d_sink_q), empty_like(k, wanted.d_k),
                            empty_like(v, wanted.d_v)};
  BackwardParams params;
  params.forward =
      forward_params(q_rows, sink_q_rows, k_rows, v_rows, out, lse, sequences, pattern, scale);
  params.d_out = view_of(d_out_rows);
  params.d_q = view_of(gradients.d_q);
  params.d_sink_q = view_of(gradients.d_sink_q);
  params.d_k = view_of(gradients.d_k);
  params.d_v = view_of(gradients.d_v);
  has_kernels(params.forward.dtype) ? cpu::attend_backward(params)
                                    : reference::attend_backward(params);
  return gradients;
}

at::Tensor attend_paged(const Queries& queries, const PagedKvView& kv, std::int64_t num_sequences,
                        std::int64_t num_key_heads, std::int64_t v_size,
                        const BlockPattern& pattern, double scale) {
  const at::NoGradGuard no_grad;
  const at::Tensor& q = queries.q;
  const at::Tensor q_rows = with_contiguous_rows(q),
                   sink_q_rows = with_contiguous_rows(queries.sink_q);
  const at::Tensor out = at::empty({q.size(0), q.size(1), v_size}, q.options());
  LOZA_CHECK(dtype_of(q.scalar_type()) == kv.dtype, dtype_name(dtype_of(q.scalar_type())),
             dtype_name(kv.dtype));
  if (num_sequences == 0) return out;
  DecodeParams params;
  params.num_sequences = num_sequences;
  params.q_len = q.size(0) / num_sequences;
  params.num_heads = q.size(1);
  params.num_key_heads = num_key_heads;
  params.qk_size = q.size(2);
  params.v_size = v_size;
  params.pattern = pattern;
  params.scale = scale;
  params.q = view_of(q_rows);
  params.sink_q = view_of(sink_q_rows);
  params.kv = kv;
  params.out = view_of(out);
  has_kernels(kv.dtype) ? cpu::attend_paged(params) : reference::attend_paged(params);
  return out;
}

}  // namespace loza::attention::on_cpu
