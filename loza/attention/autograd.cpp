#include "loza/attention/autograd.h"

#include <torch/torch.h>

#include <optional>

#include "loza/attention/on_cpu.h"
#include "loza/attention/saved_call.h"
#include "loza/base/check.h"

namespace loza::attention {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class Attend : public torch::autograd::Function<Attend> {
 public:
  // sink_q comes last: gradients are counted over the tensors that there are.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const std::optional<at::Tensor>& sink_q,
                            const Sequences& sequences, const BlockPattern& pattern, double scale) {
    auto [out, lse] = on_cpu::attend({q, sink_q.value_or(at::Tensor())}, k, v, sequences, pattern,
                                     scale, on_cpu::WithLse::kYes);
    context->save_for_backward({q, k, v, sink_q.value_or(at::Tensor()), out, lse});
    SavedCall{sequences, pattern, scale}.save(*context);
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& d_outs) {
    LOZA_CHECK(!at::GradMode::is_enabled(), "attention has no second derivatives");
    const auto saved = context->get_saved_variables();
    const SavedCall call = SavedCall::of(*context);
    const bool has_sink_q = saved[3].defined();
    const on_cpu::Wanted wanted{context->needs_input_grad(0),
                                has_sink_q && context->needs_input_grad(3),
                                context->needs_input_grad(1), context->needs_input_grad(2)};
    const on_cpu::Gradients gradients =
        on_cpu::attend_backward({saved[0], saved[3]}, saved[1], saved[2], saved[4], saved[5],
                                d_outs[0], call.sequences, call.pattern, call.scale, wanted);
    return {gradients.d_q, gradients.d_k, gradients.d_v, gradients.d_sink_q, {}, {}, {}};
  }
};

}  // namespace

at::Tensor attend_with_gradients(const Queries& queries, const at::Tensor& k, const at::Tensor& v,
                                 const Sequences& sequences, const BlockPattern& pattern,
                                 double scale) {
  return Attend::apply(queries.q, k, v, optional_tensor(queries.sink_q), sequences, pattern, scale);
}

}  // namespace loza::attention
