#pragma once

#include <string>
#include <vector>

#include "loza/model/config.h"
#include "loza/model/config_reader.h"

// One row a family: how its config.json is read and how its tensors are called. To add one,
// write families/X.cpp and its row in registry.cpp.
namespace loza::families {

// Names in a checkpoint, as fmt patterns: {0} is the layer, {1} the attention module within
// the layer. The defaults are what most decoders use.
struct TensorNames {
  std::string embedding = "model.embed_tokens.weight";
  std::string attention = "model.layers.{0}.self_attn";
  std::string attention_norm = "model.layers.{0}.input_layernorm.weight";
  std::string feed_forward = "model.layers.{0}.mlp";
  std::string feed_forward_norm = "model.layers.{0}.post_attention_layernorm.weight";
  std::string experts;                 // where a layer has them beside its dense feed-forwards
  std::string router = "gate.weight";  // after the experts' own name
  std::string router_correction = "gate.e_score_correction_bias";
  std::string final_norm = "model.norm.weight";
  std::string head = "lm_head.weight";
  std::string unneeded;  // what begins so drafts tokens; empty: nothing
};

struct Family {
  std::string model_type;  // Hugging Face's
  ModelConfig (*read)(const ConfigReader& config);
  TensorNames names = {};
};

const std::vector<Family>& registry();
// REQUIRES: read_model_config gave the name.
const Family& family_of(const ModelConfig& config);

// Whether the tensor of that name scales what a norm has normed.
bool is_norm(const std::string& name);

ModelConfig read_llama(const ConfigReader& config);
ModelConfig read_mistral(const ConfigReader& config);
ModelConfig read_qwen2(const ConfigReader& config);
ModelConfig read_qwen3(const ConfigReader& config);
ModelConfig read_deepseek_v2(const ConfigReader& config);
ModelConfig read_deepseek_v3(const ConfigReader& config);
ModelConfig read_glm4_moe_lite(const ConfigReader& config);  // GLM-4.7-Flash: as DeepSeek-V3
ModelConfig read_longcat_flash(const ConfigReader& config);
TensorNames longcat_flash_names();

}  // namespace loza::families
