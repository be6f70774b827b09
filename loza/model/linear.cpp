#include "loza/model/linear.h"

#include <torch/torch.h>

#include <algorithm>

namespace loza {
namespace {

// The whole, or a copy of it through which gradients reach the parts.
at::Tensor joined(const Weights::Stack& stack) {
  const bool trained = at::GradMode::is_enabled() &&
                       std::any_of(stack.parts.begin(), stack.parts.end(),
                                   [](const at::Tensor& part) { return part.requires_grad(); });
  return trained ? at::cat(stack.parts) : stack.whole;
}

}  // namespace

Linear::Linear(Weights& weights, const std::vector<Part>& parts, std::int64_t in, bool bias) {
  std::vector<std::string> weight_names, bias_names;
  std::vector<std::int64_t> sizes;
  for (const Part& part : parts) {
    weight_names.push_back(part.name + ".weight");
    bias_names.push_back(part.name + ".bias");
    sizes.push_back(part.size);
  }
  weight_ = weights.take_stacked(weight_names, sizes, {in});
  if (bias) bias_ = weights.take_stacked(bias_names, sizes, {});
}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  return at::linear(x, joined(weight_), bias_.whole.defined() ? joined(bias_) : at::Tensor());
}

}  // namespace loza
