#include <algorithm>

#include "loza/model/families/families.h"
#include "loza/model/families/shared_keys.h"

namespace loza::families {
namespace {

// Layers from max_window_layers on slide, unless layer_types says which do.
void refuse_sliding_layers(const ConfigReader& config, const ModelConfig& model) {
  if (const Json* types = config.find("layer_types")) {
    const bool all_full =
        types->is_array() && std::all_of(types->begin(), types->end(),
                                         [](const Json& type) { return type == "full_attention"; });
    if (!all_full) config.refuse("layer_types", "\"full_attention\" for every layer");
    return;
  }
  if (!config.boolean_or("use_sliding_window", false)) return;
  const std::int64_t first = config.integer_or("max_window_layers", 28, 0, kMaxLayers);
  if (first < model.num_layers) refuse_sliding_window(config, model, "sliding_window");
}

ModelConfig read_qwen(const ConfigReader& config, const std::string& family) {
  ModelConfig model = read_decoder(config, family);
  read_gqa(config, model);
  refuse_sliding_layers(config, model);
  return model;
}

}  // namespace

ModelConfig read_qwen2(const ConfigReader& config) {
  ModelConfig model = read_qwen(config, "qwen2");
  model.qkv_bias = true;
  return model;
}

ModelConfig read_qwen3(const ConfigReader& config) {
  ModelConfig model = read_qwen(config, "qwen3");
  model.qk_norm = true;
  model.qkv_bias = model.o_bias = config.boolean_or("attention_bias", false);
  return model;
}

}  // namespace loza::families
