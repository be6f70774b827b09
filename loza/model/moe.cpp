#include "loza/model/moe.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <limits>

#include "loza/model/families/families.h"

namespace loza {
namespace {

// choice [T, E], the groups outside the best groups_per_token set to `excluded`.
at::Tensor keep_best_groups(const at::Tensor& choice, const at::Tensor& group_scores,
                            const MoeConfig& config, double excluded) {
  const at::Tensor best = std::get<1>(group_scores.topk(config.groups_per_token, -1));
  const at::Tensor kept =
      at::zeros_like(group_scores, at::kBool).scatter(1, best, true).unsqueeze(-1);  // [T, g, 1]
  return choice.view({choice.size(0), config.num_groups, -1})
      .masked_fill(kept.logical_not(), excluded)
      .flatten(1);
}

at::Tensor choose(const at::Tensor& scores, const at::Tensor& correction, const MoeConfig& config) {
  at::Tensor choice = scores;
  if (config.top_k == MoeConfig::TopK::kGroupLimitedGreedy) {
    const at::Tensor groups = choice.view({choice.size(0), config.num_groups, -1});
    choice = keep_best_groups(choice, groups.amax(-1), config, 0);
  } else if (config.top_k == MoeConfig::TopK::kNoAuxTc) {
    choice = choice + correction;
    const at::Tensor groups = choice.view({choice.size(0), config.num_groups, -1});
    choice = keep_best_groups(choice, std::get<0>(groups.topk(2, -1)).sum(-1), config,
                              -std::numeric_limits<double>::infinity());
  }
  return std::get<1>(choice.topk(config.experts_per_token, -1));
}

// The visits of tokens to experts, sorted by expert and then by token.
struct Visits {
  std::vector<std::int64_t> experts, counts;  // those that are visited, and how often
  std::int64_t num_computed = 0;              // their sum; visits to zero experts come after
  at::Tensor tokens;                          // [T * K] int64, the token of each
  at::Tensor places;                          // [T * K] int64, where visit t * K + k stands

  Visits(const at::Tensor& experts_of_tokens, const MoeConfig& config) {  // [T, K]
    const at::Tensor on_host = experts_of_tokens.to(at::kCPU).contiguous();
    const auto* expert_of = on_host.const_data_ptr<std::int64_t>();
    const std::int64_t num_visits = on_host.numel();
    std::vector<std::int64_t> next(static_cast<std::size_t>(config.num_choices()) + 1);
    for (std::int64_t i = 0; i < num_visits; ++i)
      ++next[static_cast<std::size_t>(expert_of[i]) + 1];
    for (std::int64_t e = 0; e < config.num_choices(); ++e) {
      const std::int64_t count = next[static_cast<std::size_t>(e) + 1];
      next[static_cast<std::size_t>(e) + 1] += next[static_cast<std::size_t>(e)];
      if (count == 0 || e >= config.num_experts) continue;
      experts.push_back(e);
      counts.push_back(count);
      num_computed += count;
    }
    tokens = at::empty({num_visits}, on_host.options());
    places = at::empty({num_visits}, on_host.options());
    auto* token_at = tokens.mutable_data_ptr<std::int64_t>();
    auto* place_of = places.mutable_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < num_visits; ++i) {
      place_of[i] = next[static_cast<std::size_t>(expert_of[i])]++;
      token_at[place_of[i]] = i / config.experts_per_token;
    }
  }
};

}  // namespace

Routing route(const at::Tensor& logits, const at::Tensor& correction, const MoeConfig& config) {
  const at::Tensor scores = config.scoring == MoeConfig::Scoring::kSigmoid
                                ? at::sigmoid(logits)
                                : at::softmax(logits, -1);
  const at::Tensor experts = choose(scores.detach(), correction, config);
  at::Tensor weights = scores.gather(1, experts);
  if (config.normalise) weights = weights / (weights.sum(-1, /*keepdim=*/true) + 1e-20);
  return {experts, weights * config.scale};
}

Moe::Moe(Weights& weights, const std::string& name, const ModelConfig& config)
    : config_(*config.moe), wide_(weights.dtype() == at::kDouble ? at::kDouble : at::kFloat) {
  const families::TensorNames& names = families::family_of(config).names;
  const std::int64_t hidden = config.hidden_size;
  router_ = Linear(weights,
                   weights.take(name + "." + names.router, {config_.num_choices(), hidden}, wide_),
                   Linear::Use::kWeightToo);
  if (config_.top_k == MoeConfig::TopK::kNoAuxTc) {
    correction_ =
        weights.take(name + "." + names.router_correction, {config_.num_choices()}, wide_);
  }
  for (std::int64_t e = 0; e < config_.num_experts; ++e) {
    experts_.push_back(std::make_unique<Mlp>(weights, fmt::format("{}.experts.{}", name, e), hidden,
                                             config_.expert_size, /*bias=*/false));
  }
  if (config_.num_shared_experts > 0) {
    shared_ =
        std::make_unique<Mlp>(weights, name + ".shared_experts", hidden,
                              config_.expert_size * config_.num_shared_experts, config.mlp_bias);
  }
}

at::Tensor Moe::add(const at::Tensor& residual, const at::Tensor& x) const {
  const Routing routing = route(router_(x.to(wide_)), correction_, config_);
  const at::Tensor routed = run_experts(x, routing);
  return residual + (shared_ ? routed + shared_->forward(x) : routed);
}

// Tokens are sorted by expert, so that each expert runs once over its own; its outputs go back
// to the tokens' order before they are weighted, so that a token's sum does not depend on the
// others. Zero experts give what they get.
at::Tensor Moe::run_experts(const at::Tensor& x, const Routing& routing) const {
  if (x.size(0) == 0) return at::zeros_like(x);
  const Visits visits(routing.experts, config_);
  std::vector<const Mlp*> experts;
  for (const std::int64_t e : visits.experts) {
    experts.push_back(experts_[static_cast<std::size_t>(e)].get());
  }
  const at::Tensor sorted = x.index_select(0, visits.tokens.to(x.device()));
  const std::int64_t num_zero = sorted.size(0) - visits.num_computed;
  at::Tensor outs = sorted;
  if (visits.num_computed > 0) {
    outs = Mlp::forward_grouped(experts, visits.counts, sorted.narrow(0, 0, visits.num_computed));
    if (num_zero > 0) outs = at::cat({outs, sorted.narrow(0, visits.num_computed, num_zero)});
  }
  const at::Tensor by_token = outs.index_select(0, visits.places.to(x.device()))
                                  .view({x.size(0), config_.experts_per_token, x.size(1)});
  return (by_token * routing.weights.unsqueeze(-1)).sum(1).to(x.scalar_type());
}

}  // namespace loza
