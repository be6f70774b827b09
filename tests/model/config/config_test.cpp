#include "loza/model/config.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "loza/base/error.h"
#include "tests/model/config/configs.h"
#include "tests/support/hostile.h"

namespace loza {
namespace {

using testing::gqa_config;
using testing::HostileSuite;
using testing::llama3;
using testing::longcat_config;
using testing::mla_config;
using testing::yarn;

TEST(Config, ReadsLlama) {
  Json json = gqa_config("llama");
  json["tie_word_embeddings"] = true;
  json["attention_bias"] = true;
  const ModelConfig config = read_model_config(json, "config.json");
  EXPECT_EQ(config.family, "llama");
  EXPECT_EQ(config.attention, ModelConfig::Attention::kGqa);
  EXPECT_EQ(config.head_size, 16);
  EXPECT_EQ(config.num_key_heads, 2);
  EXPECT_EQ(config.kv_row_size(), 2 * 2 * 16);
  EXPECT_EQ(config.num_modules(), 4);
  EXPECT_TRUE(config.tied_embeddings && config.qkv_bias && config.o_bias);
  EXPECT_FALSE(config.mlp_bias || config.qk_norm || config.moe.has_value());
  EXPECT_EQ(config.rope.scaling, RopeConfig::Scaling::kNone);
  EXPECT_DOUBLE_EQ(config.softmax_scale, 0.25);
}

TEST(Config, BiasesAndNormsByFamily) {
  const ModelConfig qwen2 = read_model_config(gqa_config("qwen2"), "");
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.o_bias || qwen2.qk_norm);
  Json json = gqa_config("qwen3");
  json["head_dim"] = 128;
  const ModelConfig qwen3 = read_model_config(json, "");
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias);
  EXPECT_EQ(qwen3.head_size, 128);
  EXPECT_FALSE(read_model_config(gqa_config("mistral"), "").qkv_bias);
}

TEST(Config, ReadsDeepSeek) {
  const ModelConfig v3 = read_model_config(mla_config("deepseek_v3"), "");
  EXPECT_EQ(v3.attention, ModelConfig::Attention::kMla);
  EXPECT_EQ(v3.qk_size(), 24);
  EXPECT_EQ(v3.value_size(), 12);
  EXPECT_EQ(v3.kv_row_size(), 40);
  EXPECT_TRUE(v3.rope.interleaved);
  ASSERT_TRUE(v3.moe.has_value());
  EXPECT_EQ(v3.moe->scoring, MoeConfig::Scoring::kSigmoid);
  EXPECT_EQ(v3.moe->top_k, MoeConfig::TopK::kNoAuxTc);
  EXPECT_TRUE(v3.moe->normalise);

  Json json = mla_config("deepseek_v2");
  json["q_lora_rank"] = nullptr;
  json["topk_method"] = "group_limited_greedy";
  const ModelConfig v2 = read_model_config(json, "");
  EXPECT_EQ(v2.q_lora_rank, 0);
  EXPECT_EQ(v2.moe->scoring, MoeConfig::Scoring::kSoftmax);
  EXPECT_EQ(v2.moe->top_k, MoeConfig::TopK::kGroupLimitedGreedy);
  json["first_k_dense_replace"] = 4;
  EXPECT_FALSE(read_model_config(json, "").moe.has_value());
  json["first_k_dense_replace"] = 0;
  json["n_routed_experts"] = nullptr;
  EXPECT_FALSE(read_model_config(json, "").moe.has_value());
}

TEST(Config, ReadsGlmFlash) {
  Json json = mla_config("glm4_moe_lite");
  const ModelConfig config = read_model_config(json, "");
  EXPECT_EQ(config.moe->first_moe_layer, 1);
  EXPECT_EQ(config.moe->top_k, MoeConfig::TopK::kNoAuxTc);
  const auto refuses = [&](const std::string& key) {
    try {
      read_model_config(json, "");
      ADD_FAILURE() << key << " was taken";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("'" + key + "'"), std::string::npos) << e.what();
    }
  };
  json["first_k_dense_replace"] = 2;
  refuses("first_k_dense_replace");
  json["mlp_layer_types"] = {"dense", "dense", "sparse", "sparse"};
  EXPECT_EQ(read_model_config(json, "").moe->first_moe_layer, 2);
  json["mlp_layer_types"] = {"dense", "sparse", "dense", "sparse"};
  refuses("mlp_layer_types");
  json["mlp_layer_types"] = {"dense", "sparse"};
  refuses("mlp_layer_types");
  json["mlp_layer_types"] = "dense";
  refuses("mlp_layer_types");
  json["mlp_layer_types"] = nullptr;
  json["first_k_dense_replace"] = 1;
  json["moe_layer_freq"] = 2;
  refuses("moe_layer_freq");
  json["moe_layer_freq"] = 1;
  json["n_routed_experts"] = nullptr;
  refuses("n_routed_experts");
}

TEST(Config, ReadsLongCatFlash) {
  Json json = longcat_config();
  json.erase("rope_theta");
  json["num_hidden_layers"] = 8;  // as transformers counts modules; not read
  const ModelConfig config = read_model_config(json, "");
  EXPECT_EQ(config.num_layers, 4);
  EXPECT_EQ(config.num_modules(), 8);
  EXPECT_EQ(config.intermediate_size, 160);
  EXPECT_EQ(config.rope.theta, 1e7);
  EXPECT_DOUBLE_EQ(config.softmax_scale, std::sqrt(64.0 / 24) / std::sqrt(24.0));
  EXPECT_DOUBLE_EQ(config.latent_scale, std::sqrt(64.0 / 32));
  ASSERT_TRUE(config.moe.has_value());
  EXPECT_TRUE(config.moe->beside_dense);
  EXPECT_FALSE(config.moe->normalise);
  EXPECT_EQ(config.moe->num_choices(), 12);
  EXPECT_EQ(config.moe->scoring, MoeConfig::Scoring::kSoftmax);
  EXPECT_EQ(read_model_config(mla_config("deepseek_v3"), "").latent_scale, 1);
  json["moe_topk"] = 12;
  EXPECT_NO_THROW(read_model_config(json, ""));
  json["zero_expert_num"] = nullptr;
  EXPECT_THROW(read_model_config(json, ""), Error);
}

TEST(Config, BothSpellingsOfRopeScalingAgree) {
  Json old_spelling = gqa_config("llama");
  old_spelling["rope_theta"] = 500000.0;
  old_spelling["rope_scaling"] = llama3();
  old_spelling["rope_scaling"]["type"] = old_spelling["rope_scaling"]["rope_type"];
  old_spelling["rope_scaling"].erase("rope_type");
  Json new_spelling = gqa_config("llama");
  new_spelling.erase("rope_theta");
  new_spelling["rope_parameters"] = llama3();
  new_spelling["rope_parameters"]["rope_theta"] = 500000.0;
  for (const Json& json : {old_spelling, new_spelling}) {
    const RopeConfig rope = read_model_config(json, "").rope;
    EXPECT_EQ(rope.scaling, RopeConfig::Scaling::kLlama3);
    EXPECT_EQ(rope.theta, 500000);
    EXPECT_EQ(rope.factor, 8);
    EXPECT_EQ(rope.original_max_position, 1024);
    EXPECT_EQ(rope.high_freq_factor, 4);
  }
}

TEST(Config, YarnScalesTheSoftmaxOfLatentAttentionAlone) {
  Json json = mla_config("deepseek_v2");
  json["rope_scaling"] = yarn();
  json["rope_scaling"]["mscale"] = 0.707;
  json["rope_scaling"]["mscale_all_dim"] = 0.707;
  const double mscale = 0.1 * 0.707 * std::log(4.0) + 1;
  EXPECT_DOUBLE_EQ(read_model_config(json, "").softmax_scale, mscale * mscale / std::sqrt(24.0));
  json["rope_scaling"].erase("mscale_all_dim");
  EXPECT_DOUBLE_EQ(read_model_config(json, "").softmax_scale, 1 / std::sqrt(24.0));
}

TEST(Config, SlidingWindowThatNeverSlidesIsFine) {
  Json mistral = gqa_config("mistral");
  mistral["sliding_window"] = 4096;
  EXPECT_NO_THROW(read_model_config(mistral, ""));
  Json qwen = gqa_config("qwen2");
  qwen["sliding_window"] = 128;
  qwen["use_sliding_window"] = false;
  EXPECT_NO_THROW(read_model_config(qwen, ""));
  qwen["use_sliding_window"] = true;
  qwen["max_window_layers"] = 4;
  EXPECT_NO_THROW(read_model_config(qwen, ""));
}

// A key, and which values that break most keys are fine for it.
struct Field {
  std::string key;
  std::set<std::string> fine = {};
};

const std::vector<std::string>& bad_values() {
  static const std::vector<std::string> values = {
      "missing", "null",   "-1",  "0",    "1e308", "9223372036854775808",
      "\"NaN\"", "\"64\"", "0.5", "true", "[4]",   "{}"};
  return values;
}

Json with_value(Json config, const std::string& key, const std::string& value) {
  if (value == "missing") {
    config.erase(key);
  } else {
    config[key] = Json::parse(value);
  }
  return config;
}

// `read` on the config with each bad value in each field.
void expect_every_field_checked(HostileSuite& suite, const std::string& name, const Json& config,
                                const std::vector<Field>& fields,
                                const std::function<void(const Json&)>& read) {
  ASSERT_NO_THROW(read(config)) << name;
  for (const Field& field : fields) {
    for (const std::string& value : bad_values()) {
      const Json changed = with_value(config, field.key, value);
      const std::string title = fmt::format("{}: {} = {}", name, field.key, value);
      if (field.fine.count(value) != 0) {
        EXPECT_NO_THROW(read(changed)) << title;
      } else {
        suite.expect_bad_input(title, "'" + field.key + "'", [&] { read(changed); });
      }
    }
  }
}

void read(const Json& config) { read_model_config(config, "config.json"); }

const std::set<std::string> kOptional = {"missing", "null"};
const std::set<std::string> kFlag = {"missing", "null", "true"};

std::set<std::string> also(std::set<std::string> values, const std::set<std::string>& more) {
  values.insert(more.begin(), more.end());
  return values;
}

TEST(HostileConfig, EveryFieldOfEveryFamily) {
  HostileSuite suite("config fields");
  const std::vector<Field> decoder = {
      {"model_type"},
      {"vocab_size"},
      {"hidden_size"},
      {"num_hidden_layers"},
      {"intermediate_size"},
      {"num_attention_heads"},
      {"max_position_embeddings"},
      {"rms_norm_eps", {"0", "0.5"}},
      {"rope_theta", kOptional},
      {"hidden_act", kOptional},
      {"tie_word_embeddings", kFlag},
  };
  std::vector<Field> gqa = decoder;
  gqa.push_back({"num_key_value_heads", kOptional});
  gqa.push_back({"head_dim", kOptional});
  gqa.push_back({"partial_rotary_factor", kOptional});
  std::vector<Field> llama = gqa;
  llama.push_back({"attention_bias", kFlag});
  llama.push_back({"mlp_bias", kFlag});
  expect_every_field_checked(suite, "llama", gqa_config("llama"), llama, read);
  expect_every_field_checked(suite, "mistral", gqa_config("mistral"),
                             {{"sliding_window", kOptional}}, read);
  Json qwen = gqa_config("qwen2");
  qwen["use_sliding_window"] = true;
  qwen["max_window_layers"] = 0;
  qwen["sliding_window"] = 4096;
  expect_every_field_checked(suite, "qwen2", qwen,
                             {{"use_sliding_window", kFlag},
                              {"max_window_layers", also(kOptional, {"0"})},
                              {"sliding_window"},
                              {"layer_types", kOptional}},
                             read);

  std::vector<Field> mla = decoder;
  for (const char* key : {"kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
                          "num_experts_per_tok", "moe_intermediate_size"}) {
    mla.push_back({key});
  }
  mla.push_back({"q_lora_rank", kOptional});
  mla.push_back({"num_key_value_heads", kOptional});
  mla.push_back({"attention_bias", kOptional});
  mla.push_back({"n_routed_experts", kOptional});  // dense
  mla.push_back({"n_shared_experts", also(kOptional, {"0"})});
  mla.push_back({"first_k_dense_replace", also(kOptional, {"0"})});
  mla.push_back({"moe_layer_freq", kOptional});
  mla.push_back({"routed_scaling_factor", {"0.5"}});
  mla.push_back({"scoring_func", kOptional});
  mla.push_back({"topk_method", kOptional});
  mla.push_back({"rope_interleave", kFlag});
  std::vector<Field> v2 = mla, v3 = mla;
  v2.push_back({"norm_topk_prob", kOptional});
  v3.push_back({"norm_topk_prob", kFlag});
  v3.push_back({"n_group"});
  v3.push_back({"topk_group"});
  v3.push_back({"num_nextn_predict_layers", also(kOptional, {"0"})});
  expect_every_field_checked(suite, "deepseek_v2", mla_config("deepseek_v2"), v2, read);
  expect_every_field_checked(suite, "deepseek_v3", mla_config("deepseek_v3"), v3, read);

  expect_every_field_checked(suite, "glm4_moe_lite", mla_config("glm4_moe_lite"),
                             {{"mlp_layer_types", kOptional},
                              {"first_k_dense_replace", kOptional},
                              {"moe_layer_freq", kOptional},
                              {"n_routed_experts"}},
                             read);

  std::vector<Field> longcat = {
      {"vocab_size"},
      {"hidden_size"},
      {"num_layers"},
      {"ffn_hidden_size"},
      {"max_position_embeddings"},
      {"rope_theta", kOptional},
      {"num_key_value_heads", kOptional},
      {"q_lora_rank"},
      {"attention_bias", kOptional},
      {"head_dim", kOptional},
      {"qk_head_dim", kOptional},
      {"mla_scale_q_lora", kFlag},
      {"mla_scale_kv_lora", kFlag},
      {"zero_expert_num", also(kOptional, {"0"})},
      {"zero_expert_type", kOptional},
      {"routed_scaling_factor", {"0.5"}},
      {"router_bias", kOptional},
      {"norm_topk_prob", kOptional},
  };
  for (const char* key : {"kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
                          "n_routed_experts", "moe_topk", "expert_ffn_hidden_size"}) {
    longcat.push_back({key});
  }
  expect_every_field_checked(suite, "longcat_flash", longcat_config(), longcat, read);
}

TEST(HostileConfig, EveryFieldOfRopeScaling) {
  HostileSuite suite("rope fields");
  for (const std::string spelling : {"rope_scaling", "rope_parameters"}) {
    const auto read_scaling = [&](const Json& scaling) {
      Json config = mla_config("deepseek_v3");
      config[spelling] = scaling;
      read(config);
    };
    expect_every_field_checked(suite, spelling + " yarn", yarn(),
                               {{"rope_type", kOptional},
                                {"factor", kOptional},
                                {"rope_theta", kOptional},
                                {"original_max_position_embeddings", kOptional},
                                {"beta_fast", also(kOptional, {"0"})},
                                {"beta_slow", also(kOptional, {"0", "0.5"})},
                                {"mscale", also(kOptional, {"0", "0.5"})},
                                {"mscale_all_dim", also(kOptional, {"0", "0.5"})},
                                {"attention_factor", also(kOptional, {"0.5"})},
                                {"truncate", kFlag},
                                {"partial_rotary_factor", kOptional}},
                               read_scaling);
    expect_every_field_checked(suite, spelling + " llama3", llama3(),
                               {{"factor"},
                                {"low_freq_factor", {"0.5"}},
                                {"high_freq_factor"},
                                {"original_max_position_embeddings", kOptional}},
                               read_scaling);
  }
}

TEST(HostileConfig, WhatDoesNotFitTogether) {
  HostileSuite suite("config wholes");
  const auto refuse = [&](const std::string& title, const Json& config,
                          const std::string& fragment) {
    suite.expect_bad_input(title, fragment, [&] { read(config); });
  };
  const auto changed = [](Json config, const Json& changes) {
    config.update(changes);
    return config;
  };
  const Json llama = gqa_config("llama"), v2 = mla_config("deepseek_v2"),
             v3 = mla_config("deepseek_v3");
  refuse("no object", Json::array(), "object");
  refuse("unknown family", changed(llama, {{"model_type", "gpt2"}}), "deepseek_v3");
  refuse("a million layers", changed(llama, {{"num_hidden_layers", 1000000}}), "num_hidden_layers");
  refuse("key heads do not divide", changed(llama, {{"num_key_value_heads", 3}}),
         "num_key_value_heads");
  refuse("heads do not divide hidden", changed(llama, {{"num_attention_heads", 6}}),
         "num_attention_heads");
  refuse("odd heads", changed(llama, {{"head_dim", 15}}), "head_dim");
  refuse(
      "huge heads",
      changed(llama,
              {{"num_attention_heads", 1}, {"num_key_value_heads", 1}, {"hidden_size", 1 << 20}}),
      "head_dim");
  refuse("gelu", changed(llama, {{"hidden_act", "gelu"}}), "silu");
  refuse("quantised", changed(llama, {{"quantization_config", {{"bits", 4}}}}),
         "quantization_config");
  refuse("dynamic rope", changed(llama, {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}}),
         "yarn");
  refuse("longrope",
         changed(llama, {{"rope_parameters", {{"rope_type", "longrope"}, {"factor", 2.0}}}}),
         "rope_type");
  refuse("rope by layer type",
         changed(llama,
                 {{"rope_parameters",
                   {{"full_attention", {{"factor", 2.0}}}, {"rope_type", "sliding_attention"}}}}),
         "rope_type");
  refuse("yarn shrinks", changed(llama, {{"rope_scaling", changed(yarn(), {{"factor", 0.5}})}}),
         "factor");
  refuse("yarn with beta_fast below beta_slow",
         changed(llama, {{"rope_scaling", changed(yarn(), {{"beta_fast", 0.1}})}}), "beta_fast");
  refuse("yarn of theta 1", changed(llama, {{"rope_theta", 1}, {"rope_scaling", yarn()}}),
         "rope_theta");
  refuse("llama3 factors cross",
         changed(llama, {{"rope_scaling", changed(llama3(), {{"low_freq_factor", 4}})}}),
         "high_freq_factor");
  refuse("mistral slides", changed(gqa_config("mistral"), {{"sliding_window", 1024}}),
         "sliding window");
  refuse(
      "qwen slides",
      changed(gqa_config("qwen3"),
              {{"use_sliding_window", true}, {"max_window_layers", 2}, {"sliding_window", 1024}}),
      "sliding window");
  refuse("qwen slides by layer",
         changed(gqa_config("qwen2"), {{"layer_types", {"full_attention", "sliding_attention"}}}),
         "layer_types");
  refuse("latent attention with fewer key heads", changed(v2, {{"num_key_value_heads", 2}}),
         "num_key_value_heads");
  refuse("odd rope part", changed(v2, {{"qk_rope_head_dim", 7}}), "qk_rope_head_dim");
  refuse("latent attention with biases", changed(v2, {{"attention_bias", true}}), "attention_bias");
  refuse("v2 renormalises", changed(v2, {{"norm_topk_prob", true}}), "norm_topk_prob");
  refuse("v2 with v3's router", changed(v2, {{"topk_method", "noaux_tc"}}), "topk_method");
  refuse("v2 groups missing",
         changed(v2, {{"topk_method", "group_limited_greedy"}, {"n_group", nullptr}}), "n_group");
  refuse("v3 with softmax", changed(v3, {{"scoring_func", "softmax"}}), "scoring_func");
  refuse("v3 with v2's router", changed(v3, {{"topk_method", "greedy"}}), "topk_method");
  refuse("groups do not divide", changed(v3, {{"n_group", 3}}), "n_group");
  refuse("groups of one expert", changed(v3, {{"n_group", 8}}), "n_group");
  refuse("more groups than there are", changed(v3, {{"topk_group", 5}}), "topk_group");
  refuse("more experts than the groups hold",
         changed(v3, {{"topk_group", 1}, {"num_experts_per_tok", 3}}), "num_experts_per_tok");
  refuse("more experts a token than experts", changed(v2, {{"num_experts_per_tok", 9}}),
         "num_experts_per_tok");
}

}  // namespace
}  // namespace loza
