#pragma once

#include "loza/model/feed_forward.h"

namespace loza {

// Which experts each token visits: indices [T, K] int64 and their weights [T, K], fp32 (fp64 in
// an fp64 model). Those from num_experts on are zero experts.
struct Routing {
  at::Tensor experts, weights;
};

// logits [T, E]; correction [E], DeepSeek-V3's e_score_correction_bias, which moves the choice
// and not the weights (undefined elsewhere).
Routing route(const at::Tensor& logits, const at::Tensor& correction, const MoeConfig& config);

// sum over a token's experts of weight * expert(x), plus the shared experts.
class Moe : public FeedForward {
 public:
  Moe(Weights& weights, const std::string& name, const ModelConfig& config);
  at::Tensor add(const at::Tensor& residual, const at::Tensor& x) const override;

 private:
  at::Tensor run_experts(const at::Tensor& x, const Routing& routing) const;

  MoeConfig config_;
  Linear router_;          // hidden -> E with the zero experts, at least fp32
  at::Tensor correction_;  // [E], likewise
  at::ScalarType wide_;    // their dtype
  std::vector<std::unique_ptr<Mlp>> experts_;
  std::unique_ptr<Mlp> shared_;
};

}  // namespace loza
