#include "loza/model/elementwise.h"

#include <torch/torch.h>

#include <algorithm>

#include "loza/attention/attention.h"
#include "loza/base/check.h"
#include "loza/base/parallel_for.h"
#include "loza/model/cpu/row_kernels.h"
#include "loza/model/on_gpu.h"

namespace loza {
namespace {

using model_cpu::row_kernels, model_cpu::RowKernels;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool has_row_kernels(const at::Tensor& x) {
  return x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

at::Tensor with_contiguous_rows(const at::Tensor& x) {
  return x.stride(-1) == 1 || x.size(-1) == 1 ? x : x.contiguous();
}

// The rows of [T, size] or [T, heads, size], in order.
class Rows {
 public:
  explicit Rows(const at::Tensor& x)
      : base_(static_cast<char*>(x.data_ptr())),
        heads_(x.dim() == 3 ? x.size(1) : 1),
        token_bytes_(x.stride(0) * x.element_size()),
        head_bytes_(x.dim() == 3 ? x.stride(1) * x.element_size() : 0),
        count_(x.size(0) * heads_),
        size_(x.size(-1)) {}

  std::int64_t count() const { return count_; }
  std::int64_t size() const { return size_; }
  std::int64_t token_of(std::int64_t row) const { return row / heads_; }
  char* operator[](std::int64_t row) const {
    return base_ + row / heads_ * token_bytes_ + row % heads_ * head_bytes_;
  }

 private:
  char* base_;
  std::int64_t heads_, token_bytes_, head_bytes_, count_, size_;
};

// body(row) for each, on several threads where there is enough to do.
template <typename Body>
void for_each_row(std::int64_t num_rows, std::int64_t row_size, const Body& body) {
  constexpr std::int64_t kChunkElements = 1 << 15;
  const std::int64_t step =
      std::max<std::int64_t>(1, kChunkElements / std::max<std::int64_t>(1, row_size));
  parallel_for((num_rows + step - 1) / step, [&](std::int64_t chunk) {
    const std::int64_t end = std::min(num_rows, (chunk + 1) * step);
    for (std::int64_t row = chunk * step; row < end; ++row) body(row);
  });
}

at::Tensor rms_norm_by_rows(const at::Tensor& x, const at::Tensor& weight, double eps) {
  at::Tensor out = at::empty(x.sizes(), x.options());
  const Rows from(x), to(out);
  const RowKernels& kernels = row_kernels();
  const DType dtype = attention::dtype_of(x.scalar_type());
  for_each_row(from.count(), from.size(), [&](std::int64_t row) {
    kernels.rms_norm(from[row], weight.const_data_ptr(), static_cast<float>(eps), from.size(),
                     dtype, to[row]);
  });
  return out;
}

class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& strided,
                            const at::Tensor& weight, double eps) {
    const at::Tensor x = with_contiguous_rows(strided);
    at::Tensor out = rms_norm_by_rows(x, weight, eps);
    context->save_for_backward({x, weight});
    context->saved_data["eps"] = eps;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list d_outs) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor x = saved[0], weight = saved[1];
    const at::Tensor d_out = with_contiguous_rows(d_outs[0]);
    const double eps = context->saved_data["eps"].toDouble();
    at::Tensor d_x = at::empty(x.sizes(), x.options());
    const Rows rows(x), d_rows(d_out), to(d_x);
    for_each_row(rows.count(), rows.size(), [&](std::int64_t row) {
      row_kernels().rms_norm_backward(d_rows[row], rows[row], weight.const_data_ptr(),
                                      static_cast<float>(eps), rows.size(),
                                      attention::dtype_of(x.scalar_type()), to[row]);
    });
    at::Tensor d_weight;
    if (context->needs_input_grad(1)) {
      const at::Tensor wide = x.to(at::kFloat);
      const at::Tensor scale = at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps);
      d_weight = (d_out * (wide * scale)).flatten(0, -2).sum(0).to(weight.scalar_type());
    }
    return {d_x, d_weight, {}};
  }
};

at::Tensor swiglu_by_rows(const at::Tensor& gate_up) {
  const std::int64_t size = gate_up.size(1) / 2;
  at::Tensor out = at::empty({gate_up.size(0), size}, gate_up.options());
  const Rows gates(gate_up), to(out);
  const std::int64_t up_bytes = size * gate_up.element_size();
  const RowKernels& kernels = row_kernels();
  const DType dtype = attention::dtype_of(out.scalar_type());
  for_each_row(to.count(), size, [&](std::int64_t row) {
    kernels.swiglu(gates[row], gates[row] + up_bytes, size, dtype, to[row]);
  });
  return out;
}

class Swiglu : public torch::autograd::Function<Swiglu> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& strided) {
    const at::Tensor gate_up = with_contiguous_rows(strided);
    at::Tensor out = swiglu_by_rows(gate_up);
    context->save_for_backward({gate_up});
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list d_outs) {
    const at::Tensor gate_up = context->get_saved_variables()[0];
    const at::Tensor d_out = with_contiguous_rows(d_outs[0]);
    const std::int64_t size = gate_up.size(1) / 2;
    at::Tensor d_gate_up = at::empty(gate_up.sizes(), gate_up.options());
    const Rows gates(gate_up), ups(gate_up.narrow(1, size, size)), d_rows(d_out);
    const Rows d_gates(d_gate_up), d_ups(d_gate_up.narrow(1, size, size));
    for_each_row(d_rows.count(), size, [&](std::int64_t row) {
      row_kernels().swiglu_backward(d_rows[row], gates[row], ups[row], size,
                                    attention::dtype_of(gate_up.scalar_type()), d_gates[row],
                                    d_ups[row]);
    });
    return {d_gate_up};
  }
};

at::Tensor rotate_by_torch(const at::Tensor& whole, const at::Tensor& cos, const at::Tensor& sin,
                           std::int64_t prefix, bool interleaved, float sin_sign) {
  using at::indexing::None, at::indexing::Slice;
  at::Tensor out = at::empty(whole.sizes(), whole.options());
  out.narrow(-1, 0, prefix).copy_(whole.narrow(-1, 0, prefix));
  const auto half_of = [&](const at::Tensor& heads, bool second) {
    const at::Tensor pairs = heads.narrow(-1, prefix, heads.size(-1) - prefix);
    const std::int64_t half = pairs.size(-1) / 2;
    if (!interleaved) return pairs.narrow(-1, second ? half : 0, half);
    return pairs.index({at::indexing::Ellipsis, Slice(second ? 1 : 0, None, 2)});
  };
  const at::Tensor a = half_of(whole, false), b = half_of(whole, true);
  const at::Tensor cosines = cos.unsqueeze(1), sines = sin.unsqueeze(1);
  at::Tensor out_a = half_of(out, false), out_b = half_of(out, true);
  at::sub_out(out_a, a * cosines, b * sines, sin_sign);
  at::add_out(out_b, b * cosines, a * sines, sin_sign);
  return out;
}

at::Tensor rotate_by_rows(const at::Tensor& strided, const at::Tensor& cos, const at::Tensor& sin,
                          std::int64_t prefix, bool interleaved, float sin_sign) {
  const at::Tensor x = with_contiguous_rows(strided);
  at::Tensor out = at::empty(x.sizes(), x.options());
  const std::int64_t half = cos.size(1);
  const Rows from(x), to(out);
  const float* cos_rows = cos.const_data_ptr<float>();
  const float* sin_rows = sin.const_data_ptr<float>();
  for_each_row(from.count(), from.size(), [&](std::int64_t row) {
    const std::int64_t angles = from.token_of(row) * half;
    row_kernels().rotate({from[row], to[row], cos_rows + angles, sin_rows + angles, prefix, half,
                          sin_sign, interleaved},
                         attention::dtype_of(x.scalar_type()));
  });
  return out;
}

// sin_sign -1 turns back, which is how gradients turn, too.
at::Tensor turned(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                  std::int64_t prefix, bool interleaved, float sin_sign) {
  if (has_row_kernels(x)) return rotate_by_rows(x, cos, sin, prefix, interleaved, sin_sign);
  return on_gpu::takes(x) ? on_gpu::rotate(x, cos, sin, prefix, interleaved, sin_sign)
                          : rotate_by_torch(x, cos, sin, prefix, interleaved, sin_sign);
}

class Rotate : public torch::autograd::Function<Rotate> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin, std::int64_t prefix, bool interleaved) {
    context->save_for_backward({cos, sin});
    context->saved_data["prefix"] = prefix;
    context->saved_data["interleaved"] = interleaved;
    return turned(x, cos, sin, prefix, interleaved, 1);
  }

  static variable_list backward(AutogradContext* context, variable_list d_outs) {
    const variable_list saved = context->get_saved_variables();
    return {turned(d_outs[0], saved[0], saved[1], context->saved_data["prefix"].toInt(),
                   context->saved_data["interleaved"].toBool(), -1),
            {},
            {},
            {},
            {}};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  if (!has_row_kernels(x)) return at::rms_norm(x, {x.size(-1)}, weight, eps);
  return at::GradMode::is_enabled() ? RmsNorm::apply(x, weight, eps)
                                    : rms_norm_by_rows(with_contiguous_rows(x), weight, eps);
}

at::Tensor swiglu(const at::Tensor& gate_up) {
  if (has_row_kernels(gate_up)) {
    return at::GradMode::is_enabled() ? Swiglu::apply(gate_up)
                                      : swiglu_by_rows(with_contiguous_rows(gate_up));
  }
  if (!at::GradMode::is_enabled() && on_gpu::takes(gate_up)) return on_gpu::swiglu(gate_up);
  const std::int64_t size = gate_up.size(-1) / 2;
  return at::silu(gate_up.narrow(-1, 0, size)) * gate_up.narrow(-1, size, size);
}

at::Tensor rotate(const at::Tensor& x, const Rotation& rotation, std::int64_t prefix) {
  LOZA_CHECK(x.dim() == 3 && x.size(2) == prefix + 2 * rotation.cos.size(1), x.size(2), prefix);
  return at::GradMode::is_enabled()
             ? Rotate::apply(x, rotation.cos, rotation.sin, prefix, rotation.interleaved)
             : turned(x, rotation.cos, rotation.sin, prefix, rotation.interleaved, 1);
}

}  // namespace loza
