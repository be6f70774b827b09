#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loza/model/named_tensors.h"

namespace torch::optim {
class AdamW;
}

namespace loza {

struct OptimizerOptions {
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
};

// AdamW (arXiv 1711.05101), torch's own, over tensors with names, so that its state can be
// saved and loaded. A parameter in less than fp32 has an fp32 master, which gathers its
// gradients and takes the updates; the parameter is the master, rounded. Not thread-safe.
class Optimizer {
 public:
  // Parameters are leaf tensors that require a gradient; they are updated in place. `masters`
  // may hold wider values of some low-precision parameters, by name; else they start as the
  // parameter is.
  Optimizer(NamedTensors parameters, const OptimizerOptions& options, NamedTensors masters = {});
  ~Optimizer();
  Optimizer(Optimizer&&) noexcept;

  const NamedTensors& parameters() const { return parameters_; }
  // What is updated: the parameters themselves, or their masters. Gradients are read here.
  const NamedTensors& masters() const { return masters_; }
  void zero_grad();
  // After every backward pass: adds what low-precision parameters got to their masters.
  void collect_grads();
  // The Euclidean norm of all gradients together, in fp64; a missing gradient counts as 0.
  double grad_norm() const;
  void scale_grads(double factor);
  // Parameters without a gradient stay as they are.
  void step(double lr);

  // Moments as "NAME.exp_avg" and "NAME.exp_avg_sq", shared storage, for parameters that have
  // been updated at least once; the updates' count of each as "NAME.step" [1] int64.
  NamedTensors state() const;
  // Sets the parameters to their masters, rounded: after masters were written from outside.
  void round_to_parameters();
  // What state() gave. Throws Error(kBadInput) for other names, shapes or dtypes.
  void load_state(const NamedTensors& state, const std::string& place);

 private:
  NamedTensors parameters_;  // the model's
  NamedTensors masters_;     // the same tensors, or fp32 ones in their place
  std::unique_ptr<torch::optim::AdamW> adamw_;
};

}  // namespace loza
