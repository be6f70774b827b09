#include "loza/calibrate/gated_core.h"

#include <torch/csrc/autograd/custom_function.h>

#include <utility>

#include "loza/base/check.h"

namespace loza {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

at::Tensor mix(const at::Tensor& full, const at::Tensor& streaming, double gate,
               at::ScalarType sum_dtype) {
  if (gate == 1) return full.clone();
  if (gate == 0) return streaming.clone();
  return at::lerp(streaming.to(sum_dtype), full.to(sum_dtype), gate).to(full.scalar_type());
}

// A gradient times a branch's weight; undefined where the weight is 0, so that the branch's
// own backward pass is not run.
at::Tensor weighted(const at::Tensor& d_out, double weight) {
  if (weight == 0) return {};
  return weight == 1 ? d_out : d_out * weight;
}

// The mixing formula as one node: autograd's own would keep fp32 copies of both branches.
class Mix : public torch::autograd::Function<Mix> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& full,
                            const at::Tensor& streaming, const at::Tensor& gate) {
    const auto sum_dtype = at::promote_types(at::kFloat, gate.scalar_type());
    const double value = gate.item<double>();
    ctx->save_for_backward({full, streaming});
    ctx->saved_data["gate"] = value;
    ctx->saved_data["options"] = at::empty({0}, gate.options());
    return mix(full, streaming, value, sum_dtype);
  }

  static variable_list backward(AutogradContext* ctx, variable_list d_outs) {
    const variable_list saved = ctx->get_saved_variables();
    const double gate = ctx->saved_data["gate"].toDouble();
    const at::Tensor& d_out = d_outs[0];
    at::Tensor d_gate;
    if (ctx->needs_input_grad(2)) {
      const at::Tensor like = ctx->saved_data["options"].toTensor();
      const auto sum_dtype = at::promote_types(at::kFloat, like.scalar_type());
      const at::Tensor difference = saved[0].to(sum_dtype) - saved[1].to(sum_dtype);
      d_gate = (d_out.to(sum_dtype) * difference).sum(at::kDouble).to(like.options());
    }
    return {weighted(d_out, gate), weighted(d_out, 1 - gate), d_gate};
  }
};

bool any_longer(const attention::Sequences& sequences, std::int64_t len) {
  for (std::int64_t b = 0; b < sequences.size(); ++b) {
    const auto i = static_cast<std::size_t>(b);
    if (sequences.k_offsets[i + 1] - sequences.k_offsets[i] > len) return true;
  }
  return false;
}

}  // namespace

GatedCore::GatedCore(at::Tensor gates, BlockPattern pattern)
    : gates_(std::move(gates)), pattern_(pattern) {
  LOZA_CHECK(gates_.dim() == 1 && gates_.is_floating_point(), gates_.dim());
}

at::Tensor GatedCore::attend(std::int64_t module_idx, const attention::Queries& queries,
                             const at::Tensor& k, const at::Tensor& v,
                             const attention::Sequences& sequences, double scale) {
  LOZA_CHECK(module_idx >= 0 && module_idx < gates_.numel(), module_idx, gates_.numel());
  const auto branch = [&](const BlockPattern& pattern) {
    return attention::attend(queries, k, v, sequences, pattern, scale);
  };
  const BlockPattern full = BlockPattern::full();
  if (!any_longer(sequences, pattern_.exact_len())) return branch(full);

  const at::Tensor gate = gates_[module_idx];
  const bool learns = at::GradMode::is_enabled() && gates_.requires_grad();
  const double value = gate.item<double>();
  if (!learns && value == 1) return branch(full);
  if (!learns && value == 0) return branch(pattern_);
  return Mix::apply(branch(full), branch(pattern_), gate);
}

}  // namespace loza
