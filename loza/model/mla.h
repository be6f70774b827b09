#pragma once

#include "loza/model/attention_module.h"

namespace loza {

// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434). A token leaves one row behind:
// its normed latent [R] and one rotated key [P] that all heads share.
//
// Expanded, for whole sequences and prefill: kv_b turns latents into keys and values of every
// head. Absorbed, for decode: kv_b moves to the query and the output instead, so that the
// cache is read once for all heads:
//   q_nope . (W_UK c) = (W_UK^T q_nope) . c          sum_j w_j (W_UV c_j) = W_UV sum_j w_j c_j
class Mla : public AttentionModule {
 public:
  Mla(Weights& weights, const std::string& name, const ModelConfig& config,
      std::int64_t module_idx);
  at::Tensor add(const at::Tensor& residual, const at::Tensor& x,
                 const ForwardContext& context) const override;

 private:
  attention::Queries queries(const at::Tensor& x, const ModuleRotation& rotation) const;
  at::Tensor rows(const at::Tensor& x, const Rotation& rotation) const;
  std::pair<at::Tensor, at::Tensor> expand(const at::Tensor& rows) const;
  at::Tensor prefill(const attention::Queries& queries, const at::Tensor& rows,
                     const ForwardContext& context) const;
  at::Tensor decode(const attention::Queries& queries, const at::Tensor& rows,
                    const ForwardContext& context) const;

  std::int64_t module_idx_, heads_, nope_size_, rope_size_, v_size_, latent_size_;
  double norm_eps_, latent_scale_;
  Linear q_a_, q_b_;  // without q LoRA q_b_ is q_proj
  at::Tensor q_a_norm_, kv_a_norm_;
  Linear kv_a_, kv_b_, out_;
};

}  // namespace loza
