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
// saved and loaded. Not thread-safe.
class Optimizer {
 public:
  // Parameters are leaf tensors that require a gradient; they are updated in place.
  Optimizer(NamedTensors parameters, const OptimizerOptions& options);
  ~Optimizer();
  Optimizer(Optimizer&&) noexcept;

  const NamedTensors& parameters() const { return parameters_; }
  void zero_grad();
  // The Euclidean norm of all gradients together, in fp64; a missing gradient counts as 0.
  double grad_norm() const;
  void scale_grads(double factor);
  // Parameters without a gradient stay as they are.
  void step(double lr);

  // Moments as "NAME.exp_avg" and "NAME.exp_avg_sq", shared storage, for parameters that have
  // been updated at least once; the updates' count of each as "NAME.step" [1] int64.
  NamedTensors state() const;
  // What state() gave. Throws Error(kBadInput) for other names, shapes or dtypes.
  void load_state(const NamedTensors& state, const std::string& place);

 private:
  NamedTensors parameters_;
  std::unique_ptr<torch::optim::AdamW> adamw_;
};

}  // namespace loza
