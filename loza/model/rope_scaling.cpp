#include "loza/model/rope_scaling.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdint>

#include "loza/base/error.h"
#include "loza/model/config.h"
#include "loza/model/plan.h"

namespace loza {
namespace {

constexpr double kMaxTheta = 1e15, kMaxFactor = 4096, kMaxPositions = 2147483648.0;

void check(const RopeChange& change) {
  if (change.theta && !(*change.theta > 1 && *change.theta <= kMaxTheta)) {
    throw_usage("--rope-theta", "a number above 1", fmt::format("{:g}", *change.theta));
  }
  if (change.factor && !(*change.factor >= 1 && *change.factor <= kMaxFactor)) {
    throw_usage("--factor", fmt::format("a number from 1 to {:g}", kMaxFactor),
                fmt::format("{:g}", *change.factor));
  }
}

// The keys of an earlier scaling of this type that are not derived from factor and context.
Json kept_keys(const Json& config, const std::string& type) {
  Json kept = Json::object();
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const auto found = config.find(key);
    if (found == config.end() || !found->is_object()) continue;
    if (found->value("rope_type", found->value("type", std::string())) != type) continue;
    for (const char* name : {"beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}) {
      if (found->contains(name)) kept[name] = (*found)[name];
    }
  }
  return kept;
}

// Integers are written as integers, as transformers does.
Json number(double value) {
  if (value == std::floor(value)) return static_cast<std::int64_t>(value);
  return value;
}

Json scaled_by_yarn(Json config, const ModelConfig& model, double theta, double factor) {
  const RopeConfig& rope = model.rope;
  const double original =
      rope.scaling == RopeConfig::Scaling::kNone || rope.scaling == RopeConfig::Scaling::kLinear
          ? static_cast<double>(model.max_position)
          : rope.original_max_position;
  if (original * factor > kMaxPositions) {
    throw_usage(
        "--factor",
        fmt::format("at most {:g} for a context of {:g}", kMaxPositions / original, original),
        fmt::format("{:g}", factor));
  }
  Json scaling = kept_keys(config, "yarn");
  scaling["rope_type"] = factor == 1 ? "default" : "yarn";
  if (factor != 1) {
    scaling["factor"] = factor;
    scaling["original_max_position_embeddings"] = number(original);
  }
  Json parameters = factor == 1 ? Json{{"rope_type", "default"}} : scaling;
  parameters["rope_theta"] = number(theta);
  config["rope_parameters"] = parameters;
  config["rope_theta"] = number(theta);
  if (factor == 1) {
    config["rope_scaling"] = nullptr;
  } else {
    scaling["type"] = "yarn";
    config["rope_scaling"] = scaling;
  }
  config["max_position_embeddings"] = static_cast<std::int64_t>(std::llround(original * factor));
  return config;
}

// The RoPE of a config as one object, complete by itself.
Json rope_parameters_of(const Json& config, const ModelConfig& model) {
  Json parameters = {{"rope_type", "default"}};
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (config.contains(key) && config[key].is_object()) parameters = config[key];
  }
  parameters["rope_theta"] = number(model.rope.theta);
  if (model.rope.scaling != RopeConfig::Scaling::kNone) {
    parameters["factor"] = number(model.rope.factor);
    parameters["original_max_position_embeddings"] = number(model.rope.original_max_position);
  }
  return parameters;
}

Json with_streaming_rope_kept(const Json& changed, const Json& config, const ModelConfig& model,
                              const RopeChange& change, const std::string& place) {
  const bool touches_streaming = change.of == RopeChange::Of::kFull || change.sink_is_capped;
  const bool has_streaming = read_plan(config, model.num_modules(), place).num_streaming() > 0;
  if (!has_streaming) {
    if (!touches_streaming) return changed;
    throw_usage("--rope-of and --sink", "a model with streaming modules", "none stream",
                "give --gates too, or convert by gates first");
  }
  StreamingRope streaming = read_streaming_rope(config, place);
  if (change.theta || change.factor) {
    if (change.of == RopeChange::Of::kAll) streaming.rope_parameters.reset();
    if (change.of == RopeChange::Of::kFull && !streaming.rope_parameters) {
      streaming.rope_parameters = rope_parameters_of(config, model);
    }
  }
  streaming.sink_is_capped = change.sink_is_capped.value_or(streaming.sink_is_capped);
  return with_streaming_rope(changed, streaming);
}

Json with_scaling(const Json& config, const ModelConfig& model, const RopeChange& change) {
  const double theta = change.theta.value_or(model.rope.theta);
  if (change.factor) return scaled_by_yarn(config, model, theta, *change.factor);
  Json changed = config;
  changed["rope_theta"] = number(theta);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (changed.contains(key) && changed[key].is_object() && changed[key].contains("rope_theta")) {
      changed[key]["rope_theta"] = number(theta);
    }
  }
  return changed;
}

}  // namespace

Json with_rope(const Json& config, const RopeChange& change, const std::string& place) {
  check(change);
  const ModelConfig model = read_model_config(config, place);
  const Json changed = change.theta || change.factor ? with_scaling(config, model, change) : config;
  return with_streaming_rope_kept(changed, config, model, change, place);
}

}  // namespace loza
