#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loza/model/config.h"
#include "loza/model/linear.h"
#include "loza/model/weights.h"

namespace loza {

// The part of a layer that treats each token alone: residual + what it makes of x, both
// [T, hidden]. Differentiable.
class FeedForward {
 public:
  virtual ~FeedForward() = default;
  virtual at::Tensor add(const at::Tensor& residual, const at::Tensor& x) const = 0;
};

// down(silu(gate(x)) * up(x)).
class Mlp : public FeedForward {
 public:
  Mlp(Weights& weights, const std::string& name, std::int64_t hidden, std::int64_t intermediate,
      bool bias);
  at::Tensor add(const at::Tensor& residual, const at::Tensor& x) const override;
  at::Tensor forward(const at::Tensor& x) const;
  // Rows of x [T, hidden], group after group, through an Mlp each, all of one shape and without
  // biases: the first counts[0] rows through mlps[0], and so on.
  static at::Tensor forward_grouped(const std::vector<const Mlp*>& mlps,
                                    const std::vector<std::int64_t>& counts, const at::Tensor& x);

 private:
  Linear gate_up_, down_;
};

// The experts that stand beside a layer's dense feed-forwards. REQUIRES: config.moe.
std::unique_ptr<FeedForward> make_experts(Weights& weights, const std::string& name,
                                          const ModelConfig& config);

// Dense or a mixture of experts, as the config says for the layer.
std::unique_ptr<FeedForward> make_feed_forward(Weights& weights, const std::string& name,
                                               const ModelConfig& config, std::int64_t layer);

}  // namespace loza
