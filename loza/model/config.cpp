#include "loza/model/config.h"

#include "loza/model/config_reader.h"
#include "loza/model/families/families.h"
#include "loza/model/plan.h"

namespace loza {
namespace {

ModelConfig read_family(const Json& config, const std::string& place) {
  const ConfigReader reader(config, place);
  const std::string model_type = reader.choice("model_type", model_families());
  for (const families::Family& family : families::registry()) {
    if (family.model_type == model_type) return family.read(reader);
  }
  reader.refuse("model_type", "a registered family");
}

// The same config with the streaming modules' RoPE as the only one.
Json with_rope_parameters(Json config, const Json& parameters) {
  config["rope_parameters"] = parameters;
  config.erase("rope_scaling");
  config.erase("rope_theta");
  return config;
}

}  // namespace

ModelConfig read_model_config(const Json& config, const std::string& place) {
  ModelConfig model = read_family(config, place);
  const StreamingRope streaming = read_streaming_rope(config, place);
  const ModelConfig of_streaming =
      streaming.rope_parameters
          ? read_family(with_rope_parameters(config, *streaming.rope_parameters), place)
          : model;
  model.streaming_rope = of_streaming.rope;
  model.streaming_softmax_scale = of_streaming.softmax_scale;
  model.has_rope_by_kind = streaming.rope_parameters.has_value();
  model.sink_is_capped = streaming.sink_is_capped;
  return model;
}

std::vector<std::string> model_families() {
  std::vector<std::string> names;
  for (const families::Family& family : families::registry()) names.push_back(family.model_type);
  return names;
}

}  // namespace loza
