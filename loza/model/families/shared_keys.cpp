#include "loza/model/families/shared_keys.h"

#include <fmt/format.h>

#include <cmath>

namespace loza::families {
namespace {

constexpr double kMaxFactor = 1e6;

// The object that holds the scaling; transformers prefers the old spelling when both are
// there.
std::optional<ConfigReader> scaling_object(const ConfigReader& config) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const std::optional<ConfigReader> object = config.object(key);
    if (object && !config.find(key)->empty()) return object;
  }
  return std::nullopt;
}

std::string read_scaling_type(const ConfigReader& scaling) {
  const std::string key = scaling.has("rope_type") || !scaling.has("type") ? "rope_type" : "type";
  return scaling.choice_or(key, "default", {"default", "linear", "llama3", "yarn"});
}

void refuse_partial_rotation(const ConfigReader& object) {
  const std::string key = "partial_rotary_factor";
  if (object.has(key) && object.number(key, 0, 1) != 1) {
    object.refuse(key, "1: heads that rotate in part are not supported");
  }
}

double read_original_max_position(const ConfigReader& config, const ConfigReader& scaling,
                                  const ModelConfig& model) {
  const std::string key = "original_max_position_embeddings";
  const double max = static_cast<double>(kMaxPosition);
  if (config.has(key)) return config.number(key, 1, max);
  return scaling.number_or(key, static_cast<double>(model.max_position), 1, max);
}

void read_llama3(const ConfigReader& scaling, RopeConfig& rope) {
  rope.low_freq_factor = scaling.number("low_freq_factor", 1e-6, kMaxFactor);
  rope.high_freq_factor = scaling.number("high_freq_factor", 1e-6, kMaxFactor);
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    scaling.refuse("high_freq_factor",
                   fmt::format("more than low_freq_factor, {}", rope.low_freq_factor));
  }
}

// 0 means absent for mscale, mscale_all_dim and both betas, as in transformers.
void read_yarn(const ConfigReader& scaling, RopeConfig& rope) {
  const auto non_zero = [&](const std::string& key) {
    const std::optional<double> value = scaling.optional_number(key, 0, kMaxFactor);
    return value && *value != 0 ? value : std::nullopt;
  };
  rope.beta_fast = non_zero("beta_fast").value_or(32);
  rope.beta_slow = non_zero("beta_slow").value_or(1);
  if (rope.beta_fast < rope.beta_slow) {
    scaling.refuse("beta_fast", fmt::format("at least beta_slow, {}", rope.beta_slow));
  }
  rope.mscale = non_zero("mscale");
  rope.mscale_all_dim = non_zero("mscale_all_dim");
  rope.attention_factor = scaling.optional_number("attention_factor", 1e-6, kMaxFactor);
  rope.truncate = scaling.boolean_or("truncate", true);
  if (rope.theta == 1) scaling.refuse("rope_theta", "more than 1 with yarn");
}

// YaRN's correction of the softmax temperature, squared: once for q and once for k.
double softmax_correction(const RopeConfig& rope) {
  if (!rope.mscale_all_dim || rope.factor <= 1) return 1;
  const double mscale = 0.1 * *rope.mscale_all_dim * std::log(rope.factor) + 1;
  return mscale * mscale;
}

}  // namespace

ModelConfig read_decoder(const ConfigReader& config, const std::string& family,
                         const std::string& layers_key, const std::string& intermediate_key) {
  ModelConfig model;
  model.family = family;
  model.vocab_size = config.integer("vocab_size", 1, kMaxVocab);
  model.hidden_size = config.integer("hidden_size", 1, kMaxHidden);
  model.num_layers = config.integer(layers_key, 1, kMaxLayers);
  model.intermediate_size = config.integer(intermediate_key, 1, kMaxHidden);
  model.max_position = config.integer("max_position_embeddings", 1, kMaxPosition);
  model.norm_eps = config.number("rms_norm_eps", 0, 1);
  model.tied_embeddings = config.boolean_or("tie_word_embeddings", false);
  model.num_heads = config.integer("num_attention_heads", 1, kMaxHeads);
  config.choice_or("hidden_act", "silu", {"silu", "swish"});
  if (config.has("quantization_config")) {
    config.refuse("quantization_config", "none: quantised weights are not supported",
                  "take the checkpoint in bf16, fp16 or fp32");
  }
  return model;
}

void read_gqa(const ConfigReader& config, ModelConfig& model) {
  model.attention = ModelConfig::Attention::kGqa;
  model.num_key_heads = config.integer_or("num_key_value_heads", model.num_heads, 1, kMaxHeads);
  if (model.num_heads % model.num_key_heads != 0) {
    config.refuse("num_key_value_heads",
                  fmt::format("a divisor of num_attention_heads, {}", model.num_heads));
  }
  if (config.has("head_dim")) {
    model.head_size = config.integer("head_dim", 2, kMaxHeadSize);
  } else if (model.hidden_size % model.num_heads != 0) {
    config.refuse(
        "num_attention_heads",
        fmt::format("a divisor of hidden_size, {}, where head_dim is missing", model.hidden_size));
  } else {
    model.head_size = model.hidden_size / model.num_heads;
  }
  if (model.head_size % 2 != 0 || model.head_size > kMaxHeadSize) {
    config.refuse("head_dim", fmt::format("an even head size up to {} (it is {})", kMaxHeadSize,
                                          model.head_size));
  }
  model.rope = read_rope(config, model, model.head_size);
  model.softmax_scale = 1 / std::sqrt(static_cast<double>(model.head_size));
}

void read_mla(const ConfigReader& config, ModelConfig& model, double default_theta) {
  model.attention = ModelConfig::Attention::kMla;
  model.num_key_heads = model.num_heads;
  if (config.integer_or("num_key_value_heads", model.num_heads, 1, kMaxHeads) != model.num_heads) {
    config.refuse("num_key_value_heads",
                  fmt::format("num_attention_heads, {}: latent attention expands every head",
                              model.num_heads));
  }
  model.q_lora_rank = config.integer_or("q_lora_rank", 0, 1, kMaxHidden);
  model.kv_lora_rank = config.integer("kv_lora_rank", 1, kMaxHidden);
  model.nope_size = config.integer("qk_nope_head_dim", 1, kMaxHeadSize);
  model.rope_size = config.integer("qk_rope_head_dim", 2, kMaxHeadSize);
  model.v_size = config.integer("v_head_dim", 1, kMaxHeadSize);
  if (model.rope_size % 2 != 0) config.refuse("qk_rope_head_dim", "an even number");
  if (config.boolean_or("attention_bias", false)) {
    config.refuse("attention_bias", "false: biases of latent attention are not supported");
  }
  model.rope = read_rope(config, model, model.rope_size, default_theta);
  model.rope.interleaved = config.boolean_or("rope_interleave", true);
  model.softmax_scale =
      softmax_correction(model.rope) / std::sqrt(static_cast<double>(model.qk_size()));
}

RopeConfig read_rope(const ConfigReader& config, const ModelConfig& model, std::int64_t size,
                     double default_theta) {
  constexpr double kMinTheta = 1, kMaxTheta = 1e15;
  RopeConfig rope;
  rope.size = size;
  rope.theta = config.number_or("rope_theta", default_theta, kMinTheta, kMaxTheta);
  refuse_partial_rotation(config);
  const std::optional<ConfigReader> scaling = scaling_object(config);
  if (!scaling) return rope;

  rope.theta = scaling->number_or("rope_theta", rope.theta, kMinTheta, kMaxTheta);
  refuse_partial_rotation(*scaling);
  const std::string type = read_scaling_type(*scaling);
  if (type == "default") return rope;
  rope.original_max_position = read_original_max_position(config, *scaling, model);
  if (type == "yarn" && !scaling->has("factor")) {
    rope.factor = static_cast<double>(model.max_position) / rope.original_max_position;
    if (rope.factor < 1) scaling->refuse("factor", "a number of at least 1");
  } else {
    rope.factor = scaling->number("factor", 1, kMaxFactor);
  }
  if (type == "linear") {
    rope.scaling = RopeConfig::Scaling::kLinear;
  } else if (type == "llama3") {
    rope.scaling = RopeConfig::Scaling::kLlama3;
    read_llama3(*scaling, rope);
  } else {
    rope.scaling = RopeConfig::Scaling::kYarn;
    read_yarn(*scaling, rope);
  }
  return rope;
}

void refuse_sliding_window(const ConfigReader& config, const ModelConfig& model,
                           const std::string& window_key) {
  const std::int64_t window = config.integer(window_key, 1, kMaxPosition);
  if (window < model.max_position) {
    config.refuse(window_key,
                  fmt::format("null, or at least max_position_embeddings, {}: a sliding window "
                              "is not supported",
                              model.max_position));
  }
}

}  // namespace loza::families
