#include "loza/model/families/families.h"
#include "loza/model/families/shared_keys.h"

namespace loza::families {

ModelConfig read_llama(const ConfigReader& config) {
  ModelConfig model = read_decoder(config, "llama");
  read_gqa(config, model);
  model.qkv_bias = model.o_bias = config.boolean_or("attention_bias", false);
  model.mlp_bias = config.boolean_or("mlp_bias", false);
  return model;
}

// Llama without biases; the first Mistral has a sliding window.
ModelConfig read_mistral(const ConfigReader& config) {
  ModelConfig model = read_decoder(config, "mistral");
  read_gqa(config, model);
  if (config.has("sliding_window")) refuse_sliding_window(config, model, "sliding_window");
  return model;
}

}  // namespace loza::families
