#include "loza/attention/autograd.h"

#include <torch/torch.h>

#include <optional>
#include <utility>
#include <vector>

#include "loza/attention/on_cpu.h"
#include "loza/base/check.h"

namespace loza::attention {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::optional<at::Tensor> optional_tensor(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

class Attend : public torch::autograd::Function<Attend> {
 public:
  // sink_q comes last: gradients are counted over the tensors that there are.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const std::optional<at::Tensor>& sink_q,
                            const Sequences& sequences, const BlockPattern& pattern, double scale) {
    auto [out, lse] = on_cpu::attend({q, sink_q.value_or(at::Tensor())}, k, v, sequences, pattern,
                                     scale, on_cpu::WithLse::kYes);
    context->save_for_backward({q, k, v, sink_q.value_or(at::Tensor()), out, lse});
    auto& saved = context->saved_data;
    saved["q_offsets"] = sequences.q_offsets;
    saved["k_offsets"] = sequences.k_offsets;
    saved["pattern"] =
        std::vector<std::int64_t>{pattern.block_size, pattern.sink_blocks, pattern.recent_blocks};
    saved["scale"] = scale;
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& d_outs) {
    LOZA_CHECK(!at::GradMode::is_enabled(), "attention has no second derivatives");
    const auto saved = context->get_saved_variables();
    auto& data = context->saved_data;
    const auto offsets = [&](const char* name) { return data[name].toIntVector(); };
    Sequences sequences;
    sequences.q_offsets = offsets("q_offsets");
    sequences.k_offsets = offsets("k_offsets");
    const std::vector<std::int64_t> pattern = offsets("pattern");
    const bool has_sink_q = saved[3].defined();
    const on_cpu::Wanted wanted{context->needs_input_grad(0),
                                has_sink_q && context->needs_input_grad(3),
                                context->needs_input_grad(1), context->needs_input_grad(2)};
    const on_cpu::Gradients gradients = on_cpu::attend_backward(
        {saved[0], saved[3]}, saved[1], saved[2], saved[4], saved[5], d_outs[0], sequences,
        {pattern[0], pattern[1], pattern[2]}, data["scale"].toDouble(), wanted);
    return {gradients.d_q, gradients.d_k, gradients.d_v, gradients.d_sink_q, {}, {}, {}};
  }
};

}  // namespace

at::Tensor attend_with_gradients(const Queries& queries, const at::Tensor& k, const at::Tensor& v,
                                 const Sequences& sequences, const BlockPattern& pattern,
                                 double scale) {
  for (const std::int64_t skipped : sequences.skipped) LOZA_CHECK(skipped == 0, skipped);
  return Attend::apply(queries.q, k, v, optional_tensor(queries.sink_q), sequences, pattern, scale);
}

}  // namespace loza::attention
