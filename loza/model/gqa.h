#pragma once

#include "loza/model/attention_module.h"

namespace loza {

// Grouped-query attention: H query heads share G key and value heads of one size D.
// A cached row is G * D rotated keys, then G * D values.
class Gqa : public AttentionModule {
 public:
  Gqa(Weights& weights, const std::string& name, const ModelConfig& config,
      std::int64_t module_idx);
  at::Tensor add(const at::Tensor& residual, const at::Tensor& x,
                 const ForwardContext& context) const override;

 private:
  at::Tensor attend(const attention::Queries& queries, const at::Tensor& rows,
                    const ForwardContext& context) const;

  std::int64_t module_idx_, heads_, key_heads_, size_;  // H, G, D
  double norm_eps_;
  Linear qkv_, out_;
  at::Tensor q_norm_, k_norm_;  // [D]; undefined without
};

}  // namespace loza
