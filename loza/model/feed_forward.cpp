#include "loza/model/feed_forward.h"

#include <torch/torch.h>

#include "loza/model/elementwise.h"
#include "loza/model/moe.h"

namespace loza {

Mlp::Mlp(Weights& weights, const std::string& name, std::int64_t hidden, std::int64_t intermediate,
         bool bias)
    : gate_up_(weights, {{name + ".gate_proj", intermediate}, {name + ".up_proj", intermediate}},
               hidden, bias),
      down_(weights, {{name + ".down_proj", hidden}}, intermediate, bias) {}

at::Tensor Mlp::forward(const at::Tensor& x) const { return down_(swiglu(gate_up_(x))); }

at::Tensor Mlp::forward_grouped(const std::vector<const Mlp*>& mlps,
                                const std::vector<std::int64_t>& counts, const at::Tensor& x) {
  std::vector<const Linear*> gate_ups, downs;
  for (const Mlp* mlp : mlps) {
    gate_ups.push_back(&mlp->gate_up_);
    downs.push_back(&mlp->down_);
  }
  return Linear::grouped(downs, counts, swiglu(Linear::grouped(gate_ups, counts, x)));
}

at::Tensor Mlp::add(const at::Tensor& residual, const at::Tensor& x) const {
  return down_.added_to(residual, swiglu(gate_up_(x)));
}

std::unique_ptr<FeedForward> make_experts(Weights& weights, const std::string& name,
                                          const ModelConfig& config) {
  return std::make_unique<Moe>(weights, name, config);
}

std::unique_ptr<FeedForward> make_feed_forward(Weights& weights, const std::string& name,
                                               const ModelConfig& config, std::int64_t layer) {
  if (config.moe && !config.moe->beside_dense && layer >= config.moe->first_moe_layer &&
      layer % config.moe->moe_layer_freq == 0) {
    return make_experts(weights, name, config);
  }
  return std::make_unique<Mlp>(weights, name, config.hidden_size, config.intermediate_size,
                               config.mlp_bias);
}

}  // namespace loza
