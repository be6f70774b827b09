#include <fmt/format.h>

#include <cmath>

#include "loza/model/families/families.h"
#include "loza/model/families/shared_keys.h"

// LongCat-Flash (arXiv 2509.01322). A layer is two blocks of latent attention and a dense
// feed-forward. Its experts, some of which give back what they get, stand beside them.
namespace loza::families {
namespace {

constexpr double kDefaultTheta = 1e7;

// What the config may repeat must agree: transformers computes with the repetition.
void expect_equal(const ConfigReader& config, const std::string& key, std::int64_t value,
                  const std::string& what) {
  if (config.integer_or(key, value, 1, kMaxHeadSize) != value) {
    config.refuse(key, fmt::format("{}, {}", what, value));
  }
}

// transformers scales always; LongCat's own code asks the config.
void expect_scaled(const ConfigReader& config, const std::string& key) {
  if (!config.boolean_or(key, true)) {
    config.refuse(key, "true: LongCat's code and transformers disagree on what false means");
  }
}

void read_scaled_latents(const ConfigReader& config, ModelConfig& model) {
  read_mla(config, model, kDefaultTheta);
  model.rope.interleaved = true;
  if (model.q_lora_rank == 0) config.refuse("q_lora_rank", "a number");
  expect_equal(config, "head_dim", model.rope_size, "qk_rope_head_dim");
  expect_equal(config, "qk_head_dim", model.qk_size(), "qk_nope_head_dim + qk_rope_head_dim");
  expect_scaled(config, "mla_scale_q_lora");
  expect_scaled(config, "mla_scale_kv_lora");
  const auto hidden = static_cast<double>(model.hidden_size);
  model.softmax_scale *= std::sqrt(hidden / static_cast<double>(model.q_lora_rank));
  model.latent_scale = std::sqrt(hidden / static_cast<double>(model.kv_lora_rank));
}

MoeConfig read_experts(const ConfigReader& config) {
  MoeConfig moe;
  moe.beside_dense = true;
  moe.num_experts = config.integer("n_routed_experts", 1, kMaxExperts);
  moe.num_zero_experts = config.integer_or("zero_expert_num", 0, 0, kMaxExperts);
  config.choice_or("zero_expert_type", "identity", {"identity"});
  moe.experts_per_token = config.integer("moe_topk", 1, moe.num_choices());
  moe.expert_size = config.integer("expert_ffn_hidden_size", 1, kMaxHidden);
  moe.scale = config.number("routed_scaling_factor", 1e-6, 1e6);
  moe.top_k = MoeConfig::TopK::kNoAuxTc;  // of one group: by score and correction
  if (config.boolean_or("router_bias", false)) {
    config.refuse("router_bias", "false: transformers leaves the bias out");
  }
  if (config.boolean_or("norm_topk_prob", false)) {
    config.refuse("norm_topk_prob", "false: transformers does not know the key");
  }
  return moe;
}

}  // namespace

ModelConfig read_longcat_flash(const ConfigReader& config) {
  ModelConfig model = read_decoder(config, "longcat_flash", "num_layers", "ffn_hidden_size");
  model.modules_per_layer = 2;
  read_scaled_latents(config, model);
  model.moe = read_experts(config);
  return model;
}

TensorNames longcat_flash_names() {
  TensorNames names;
  names.attention = "model.layers.{0}.self_attn.{1}";
  names.attention_norm = "model.layers.{0}.input_layernorm.{1}.weight";
  names.feed_forward = "model.layers.{0}.mlps.{1}";
  names.feed_forward_norm = "model.layers.{0}.post_attention_layernorm.{1}.weight";
  names.experts = "model.layers.{0}.mlp";
  names.router = "router.classifier.weight";
  names.router_correction = "router.e_score_correction_bias";
  names.unneeded = "model.mtp.";
  return names;
}

}  // namespace loza::families
