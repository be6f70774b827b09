#pragma once

#include <string>

#include "loza/base/json.h"

// Configs of real families, small, for tests.
namespace loza::testing {

inline Json gqa_config(const std::string& model_type) {
  return {{"model_type", model_type}, {"vocab_size", 320},
          {"hidden_size", 64},        {"intermediate_size", 160},
          {"num_hidden_layers", 4},   {"num_attention_heads", 4},
          {"num_key_value_heads", 2}, {"max_position_embeddings", 4096},
          {"rms_norm_eps", 1e-6},     {"rope_theta", 10000.0},
          {"hidden_act", "silu"}};
}

inline Json mla_config(const std::string& model_type) {
  Json config = gqa_config(model_type);
  config["num_key_value_heads"] = 4;
  config["q_lora_rank"] = 24;
  config["kv_lora_rank"] = 32;
  config["qk_nope_head_dim"] = 16;
  config["qk_rope_head_dim"] = 8;
  config["v_head_dim"] = 12;
  config["n_routed_experts"] = 8;
  config["n_shared_experts"] = 1;
  config["num_experts_per_tok"] = 2;
  config["moe_intermediate_size"] = 48;
  config["first_k_dense_replace"] = 1;
  config["n_group"] = 4;
  config["topk_group"] = 2;
  config["routed_scaling_factor"] = 2.5;
  return config;
}

inline Json longcat_config() {
  Json config = mla_config("longcat_flash");
  for (const char* key :
       {"num_hidden_layers", "intermediate_size", "num_experts_per_tok", "moe_intermediate_size",
        "n_shared_experts", "first_k_dense_replace", "n_group", "topk_group"}) {
    config.erase(key);
  }
  config["num_layers"] = 4;
  config["ffn_hidden_size"] = 160;
  config["zero_expert_num"] = 4;
  config["moe_topk"] = 3;
  config["expert_ffn_hidden_size"] = 48;
  return config;
}

inline Json yarn() {
  return {{"rope_type", "yarn"},
          {"factor", 4.0},
          {"original_max_position_embeddings", 1024},
          {"beta_fast", 32},
          {"beta_slow", 1}};
}

inline Json llama3() {
  return {{"rope_type", "llama3"},
          {"factor", 8.0},
          {"original_max_position_embeddings", 1024},
          {"low_freq_factor", 1.0},
          {"high_freq_factor", 4.0}};
}

}  // namespace loza::testing
