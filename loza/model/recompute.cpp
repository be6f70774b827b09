#include "loza/model/recompute.h"

#include <torch/custom_class.h>
#include <torch/torch.h>

#include <utility>

namespace loza {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Body = std::function<at::Tensor(const at::Tensor&)>;

// Lets autograd's context own a function.
struct OwnedBody : torch::CustomClassHolder {
  explicit OwnedBody(Body body) : body(std::move(body)) {}
  Body body;
};

class Recomputed : public torch::autograd::Function<Recomputed> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, Body body) {
    at::Tensor y = body(x);
    context->save_for_backward({x});
    context->saved_data["body"] =
        c10::IValue::make_capsule(c10::make_intrusive<OwnedBody>(std::move(body)));
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list d_outs) {
    const auto owned = context->saved_data["body"].toCapsule();
    const Body& body = static_cast<OwnedBody*>(owned.get())->body;
    const at::AutoGradMode grad_mode(true);
    const at::Tensor x = context->get_saved_variables()[0].detach().requires_grad_();
    torch::autograd::backward({body(x)}, {d_outs[0]});
    return {x.grad(), {}};
  }
};

}  // namespace

at::Tensor recomputed(Body fn, const at::Tensor& x) {
  if (!at::GradMode::is_enabled()) return fn(x);
  // Backward is only asked for where some input wants a gradient.
  return Recomputed::apply(x.requires_grad() ? x : x.detach().requires_grad_(), std::move(fn));
}

}  // namespace loza
