#include <fmt/format.h>

#include <algorithm>

#include "loza/model/families/families.h"
#include "loza/model/families/shared_keys.h"

namespace loza::families {
namespace {

// What both routers need. Nothing when every layer is dense.
std::optional<MoeConfig> read_experts(const ConfigReader& config, const ModelConfig& model) {
  if (!config.has("n_routed_experts")) return std::nullopt;
  MoeConfig moe;
  moe.first_moe_layer = config.integer_or("first_k_dense_replace", 0, 0, kMaxLayers);
  moe.moe_layer_freq = config.integer_or("moe_layer_freq", 1, 1, kMaxLayers);
  moe.num_experts = config.integer("n_routed_experts", 1, kMaxExperts);
  moe.num_shared_experts = config.integer_or("n_shared_experts", 0, 0, kMaxExperts);
  moe.experts_per_token = config.integer("num_experts_per_tok", 1, moe.num_experts);
  moe.expert_size = config.integer("moe_intermediate_size", 1, kMaxHidden);
  moe.scale = config.number("routed_scaling_factor", 1e-6, 1e6);
  if (moe.first_moe_layer >= model.num_layers) return std::nullopt;
  return moe;
}

void read_groups(const ConfigReader& config, MoeConfig& moe) {
  moe.num_groups = config.integer("n_group", 1, moe.num_experts);
  if (moe.num_experts % moe.num_groups != 0) {
    config.refuse("n_group", fmt::format("a divisor of n_routed_experts, {}", moe.num_experts));
  }
  moe.groups_per_token = config.integer("topk_group", 1, moe.num_groups);
  const std::int64_t reachable = moe.num_experts / moe.num_groups * moe.groups_per_token;
  if (moe.experts_per_token > reachable) {
    config.refuse("num_experts_per_tok", fmt::format("at most {}, the experts of {} groups",
                                                     reachable, moe.groups_per_token));
  }
}

// DeepSeek-V3's layers: experts are chosen by sigmoid and correction, group by group.
ModelConfig read_corrected_experts(const ConfigReader& config, const std::string& family) {
  ModelConfig model = read_decoder(config, family);
  read_mla(config, model);
  model.num_draft_layers = config.integer_or("num_nextn_predict_layers", 0, 0, kMaxLayers);
  model.moe = read_experts(config, model);
  if (!model.moe) return model;
  config.choice_or("scoring_func", "sigmoid", {"sigmoid"});
  config.choice_or("topk_method", "noaux_tc", {"noaux_tc"});
  model.moe->scoring = MoeConfig::Scoring::kSigmoid;
  model.moe->top_k = MoeConfig::TopK::kNoAuxTc;
  model.moe->normalise = config.boolean_or("norm_topk_prob", true);
  read_groups(config, *model.moe);
  if (model.moe->num_experts / model.moe->num_groups < 2) {
    config.refuse("n_group", "groups of at least two experts: the two best ones rank a group");
  }
  return model;
}

// transformers asks mlp_layer_types which layers are dense, by default the first; the checkpoint's
// authors ask first_k_dense_replace.
void read_layer_types(const ConfigReader& config, ModelConfig& model) {
  std::int64_t num_dense = 1;
  if (const Json* types = config.find("mlp_layer_types")) {
    const auto is = [](const char* kind) { return [kind](const Json& t) { return t == kind; }; };
    const bool is_list =
        types->is_array() && types->size() == static_cast<std::size_t>(model.num_layers);
    const auto first_sparse =
        is_list ? std::find_if(types->begin(), types->end(), is("sparse")) : types->end();
    if (!is_list || !std::all_of(types->begin(), first_sparse, is("dense")) ||
        !std::all_of(first_sparse, types->end(), is("sparse"))) {
      config.refuse(
          "mlp_layer_types",
          fmt::format("\"dense\" for the first of {} layers, then \"sparse\"", model.num_layers));
    }
    num_dense = first_sparse - types->begin();
  }
  if (config.integer_or("first_k_dense_replace", num_dense, 0, kMaxLayers) != num_dense) {
    config.refuse("first_k_dense_replace",
                  fmt::format("{}, as mlp_layer_types or its default say", num_dense));
  }
  model.moe->first_moe_layer = num_dense;
}

}  // namespace

ModelConfig read_deepseek_v2(const ConfigReader& config) {
  ModelConfig model = read_decoder(config, "deepseek_v2");
  read_mla(config, model);
  model.mlp_bias = config.boolean_or("mlp_bias", false);
  model.moe = read_experts(config, model);
  if (!model.moe) return model;
  config.choice_or("scoring_func", "softmax", {"softmax"});
  if (config.boolean_or("norm_topk_prob", false)) {
    config.refuse("norm_topk_prob",
                  "false: DeepSeek's code and transformers disagree on what true means");
  }
  if (config.choice_or("topk_method", "greedy", {"greedy", "group_limited_greedy"}) ==
      "group_limited_greedy") {
    model.moe->top_k = MoeConfig::TopK::kGroupLimitedGreedy;
    read_groups(config, *model.moe);
  }
  return model;
}

ModelConfig read_deepseek_v3(const ConfigReader& config) {
  return read_corrected_experts(config, "deepseek_v3");
}

ModelConfig read_glm4_moe_lite(const ConfigReader& config) {
  ModelConfig model = read_corrected_experts(config, "glm4_moe_lite");
  if (!model.moe) config.refuse("n_routed_experts", "experts in every layer but the first ones");
  if (model.moe->moe_layer_freq != 1) config.refuse("moe_layer_freq", "1");
  read_layer_types(config, model);
  return model;
}

}  // namespace loza::families
