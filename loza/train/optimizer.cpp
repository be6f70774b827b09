#include "loza/train/optimizer.h"

#include <fmt/format.h>
#include <torch/optim/adamw.h>

#include <cmath>
#include <map>
#include <numeric>
#include <vector>

#include "loza/base/check.h"
#include "loza/base/error.h"

namespace loza {
namespace {

torch::optim::AdamWOptions to_torch(const OptimizerOptions& options) {
  return torch::optim::AdamWOptions()
      .betas(std::make_tuple(options.beta1, options.beta2))
      .eps(options.eps)
      .weight_decay(options.weight_decay);
}

// The state that torch keeps for a parameter, or null before its first update.
const torch::optim::AdamWParamState* param_state(const torch::optim::AdamW& adamw,
                                                 const at::Tensor& parameter) {
  const auto& states = adamw.state();
  const auto found = states.find(parameter.unsafeGetTensorImpl());
  if (found == states.end()) return nullptr;
  return static_cast<const torch::optim::AdamWParamState*>(found->second.get());
}

bool is_low_precision(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf;
}

at::Tensor load_moment(const std::map<std::string, at::Tensor>& state, const std::string& name,
                       const at::Tensor& parameter, const std::string& place) {
  const auto found = state.find(name);
  if (found == state.end()) {
    throw_bad_input(place, fmt::format("a tensor '{}'", name), "none");
  }
  const at::Tensor& moment = found->second;
  if (moment.sizes() != parameter.sizes() || moment.scalar_type() != parameter.scalar_type()) {
    throw_bad_input(
        fmt::format("{}: tensor '{}'", place, name),
        fmt::format("{} elements of the parameter's type", parameter.numel()),
        fmt::format("{} elements of {}", moment.numel(), c10::toString(moment.scalar_type())));
  }
  return moment.clone();
}

}  // namespace

Optimizer::Optimizer(NamedTensors parameters, const OptimizerOptions& options, NamedTensors masters)
    : parameters_(std::move(parameters)) {
  const std::map<std::string, at::Tensor> wide(masters.begin(), masters.end());
  std::vector<at::Tensor> tensors;
  for (const auto& [name, tensor] : parameters_) {
    LOZA_CHECK(tensor.is_leaf() && tensor.requires_grad(), name);
    at::Tensor master = tensor;
    if (is_low_precision(tensor)) {
      const auto found = wide.find(name);
      const at::Tensor& start = found == wide.end() ? tensor : found->second;
      LOZA_CHECK(start.sizes() == tensor.sizes(), name);
      master = start.detach().to(tensor.device(), at::kFloat, false, /*copy=*/true);
      master.requires_grad_();
    }
    masters_.emplace_back(name, master);
    tensors.push_back(master);
  }
  round_to_parameters();
  adamw_ = std::make_unique<torch::optim::AdamW>(tensors, to_torch(options));
}

Optimizer::~Optimizer() = default;
Optimizer::Optimizer(Optimizer&&) noexcept = default;

void Optimizer::zero_grad() {
  adamw_->zero_grad();
  for (const auto& [name, tensor] : parameters_) tensor.mutable_grad().reset();
}

void Optimizer::collect_grads() {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor& parameter = parameters_[i].second;
    const at::Tensor& master = masters_[i].second;
    if (master.is_same(parameter) || !parameter.grad().defined()) continue;
    if (master.grad().defined()) {
      master.mutable_grad().add_(parameter.grad());
    } else {
      master.mutable_grad() = parameter.grad().to(master.scalar_type());
    }
    parameter.mutable_grad().reset();
  }
}

void Optimizer::round_to_parameters() {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor& master = masters_[i].second;
    if (!master.is_same(parameters_[i].second)) at::Tensor(parameters_[i].second).copy_(master);
  }
}

double Optimizer::grad_norm() const {
  std::vector<at::Tensor> squares;  // read together: on a GPU each look waits for all before it
  for (const auto& [name, tensor] : masters_) {
    if (tensor.grad().defined()) squares.push_back(tensor.grad().to(at::kDouble).square().sum());
  }
  if (squares.empty()) return 0;
  const at::Tensor on_host = at::stack(squares).cpu();
  const double* const values = on_host.const_data_ptr<double>();
  return std::sqrt(std::accumulate(values, values + on_host.numel(), 0.0));
}

void Optimizer::scale_grads(double factor) {
  for (const auto& [name, tensor] : masters_) {
    if (tensor.grad().defined()) tensor.mutable_grad().mul_(factor);
  }
}

void Optimizer::step(double lr) {
  for (auto& group : adamw_->param_groups()) {
    static_cast<torch::optim::AdamWOptions&>(group.options()).lr(lr);
  }
  adamw_->step();
  round_to_parameters();
}

NamedTensors Optimizer::state() const {
  NamedTensors state;
  for (const auto& [name, tensor] : masters_) {
    const auto* of_parameter = param_state(*adamw_, tensor);
    if (of_parameter == nullptr) continue;
    state.emplace_back(name + ".exp_avg", of_parameter->exp_avg());
    state.emplace_back(name + ".exp_avg_sq", of_parameter->exp_avg_sq());
    state.emplace_back(name + ".step", at::full({1}, of_parameter->step(), at::kLong));
  }
  return state;
}

void Optimizer::load_state(const NamedTensors& state, const std::string& place) {
  std::map<std::string, at::Tensor> left(state.begin(), state.end());
  auto& states = adamw_->state();
  states.clear();
  for (const auto& [name, tensor] : masters_) {
    const auto step = left.find(name + ".step");
    if (step == left.end()) continue;
    if (step->second.scalar_type() != at::kLong || step->second.numel() != 1) {
      throw_bad_input(fmt::format("{}: tensor '{}.step'", place, name), "one int64",
                      fmt::format("{} elements", step->second.numel()));
    }
    auto of_parameter = std::make_unique<torch::optim::AdamWParamState>();
    of_parameter->step(step->second.item<std::int64_t>());
    of_parameter->exp_avg(load_moment(left, name + ".exp_avg", tensor, place));
    of_parameter->exp_avg_sq(load_moment(left, name + ".exp_avg_sq", tensor, place));
    states[tensor.unsafeGetTensorImpl()] = std::move(of_parameter);
    for (const char* part : {".step", ".exp_avg", ".exp_avg_sq"}) left.erase(name + part);
  }
  if (!left.empty()) {
    throw_bad_input(place, "the state of this run's parameters",
                    fmt::format("a tensor '{}'", left.begin()->first));
  }
}

}  // namespace loza
