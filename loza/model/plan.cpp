#include "loza/model/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "loza/base/check.h"
#include "loza/model/config_reader.h"

namespace loza {
namespace {

constexpr const char* kKey = "streaming_sparse_attention";
constexpr const char* kRopeParameters = "rope_parameters";
constexpr const char* kSinkDistance = "sink_distance";
constexpr std::int64_t kDefaultBlockSize = 128;
constexpr std::int64_t kDefaultRecentSize = 256;  // of the released engine
constexpr std::int64_t kMaxSize = std::int64_t{1} << 40;
constexpr std::int64_t kMaxBlockSize = 1 << 20;

std::int64_t num_blocks(std::int64_t size, std::int64_t block_size) {
  return (size + block_size - 1) / block_size;
}

BlockPattern read_pattern(const ConfigReader& config) {
  BlockPattern pattern;
  pattern.block_size = config.integer_or("block_size", kDefaultBlockSize, 1, kMaxBlockSize);
  pattern.sink_blocks = num_blocks(config.integer("sink_size", 0, kMaxSize), pattern.block_size);
  pattern.recent_blocks = num_blocks(
      config.integer_or("recent_size", kDefaultRecentSize, 1, kMaxSize), pattern.block_size);
  const std::int64_t most = BlockPattern::kAllBlocks - 1;
  if (pattern.sink_blocks > most)
    config.refuse("sink_size", fmt::format("{} blocks at most", most));
  if (pattern.recent_blocks > most) {
    config.refuse("recent_size", fmt::format("{} blocks at most", most));
  }
  return pattern;
}

std::vector<bool> read_layer_type(const ConfigReader& config, std::int64_t num_modules) {
  const std::string expected =
      fmt::format("{} characters, one an attention module, each '0' or '1'", num_modules);
  const Json* value = config.find("layer_type");
  if (value == nullptr || !value->is_string()) config.refuse("layer_type", expected);
  const auto& text = value->get_ref<const std::string&>();
  if (static_cast<std::int64_t>(text.size()) != num_modules ||
      text.find_first_not_of("01") != std::string::npos) {
    config.refuse("layer_type", expected);
  }
  std::vector<bool> streaming;
  for (const char c : text) streaming.push_back(c == '1');
  return streaming;
}

}  // namespace

AttentionPlan AttentionPlan::dense(std::int64_t num_modules) {
  LOZA_CHECK(num_modules >= 0, num_modules);
  return {std::vector<BlockPattern>(static_cast<std::size_t>(num_modules), BlockPattern::full()),
          "dense"};
}

AttentionPlan AttentionPlan::from_choice(const std::vector<bool>& streaming,
                                         const BlockPattern& pattern, std::string origin) {
  AttentionPlan plan;
  plan.origin = std::move(origin);
  for (const bool is_streaming : streaming) {
    plan.patterns.push_back(is_streaming ? pattern : BlockPattern::full());
  }
  return plan;
}

std::int64_t AttentionPlan::num_streaming() const {
  return std::count_if(patterns.begin(), patterns.end(),
                       [](const BlockPattern& pattern) { return !pattern.is_full(); });
}

std::string AttentionPlan::layer_type() const {
  std::string text;
  for (const BlockPattern& pattern : patterns) text += pattern.is_full() ? '0' : '1';
  return text;
}

AttentionPlan read_plan(const Json& config, std::int64_t num_modules, const std::string& place) {
  const std::optional<ConfigReader> object = ConfigReader(config, place).object(kKey);
  if (!object) return AttentionPlan::dense(num_modules);
  for (const auto& [key, value] : config[kKey].items()) {
    static const std::vector<std::string> known = {"sink_size",    "recent_size", "sparsity",
                                                   "layer_type",   "block_size",  "rope_parameters",
                                                   "sink_distance"};
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      object->refuse(key, fmt::format("no other key than {}", fmt::join(known, ", ")));
    }
  }
  object->number_or("sparsity", 0, 0, 1);
  return AttentionPlan::from_choice(read_layer_type(*object, num_modules), read_pattern(*object),
                                    "config.json");
}

StreamingRope read_streaming_rope(const Json& config, const std::string& place) {
  const std::optional<ConfigReader> object = ConfigReader(config, place).object(kKey);
  StreamingRope rope;
  if (!object) return rope;
  if (object->object(kRopeParameters)) rope.rope_parameters = config[kKey][kRopeParameters];
  rope.sink_is_capped =
      object->choice_or(kSinkDistance, "absolute", {"absolute", "capped"}) == "capped";
  return rope;
}

Json with_streaming_rope(const Json& config, const StreamingRope& rope) {
  LOZA_CHECK(config.contains(kKey));
  Json result = config;
  Json& object = result[kKey];
  object.erase(kRopeParameters);
  object.erase(kSinkDistance);
  if (rope.rope_parameters) object[kRopeParameters] = *rope.rope_parameters;
  if (rope.sink_is_capped) object[kSinkDistance] = "capped";
  return result;
}

Json with_plan(const Json& config, const AttentionPlan& plan) {
  Json result = config;
  const auto streaming =
      std::find_if(plan.patterns.begin(), plan.patterns.end(),
                   [](const BlockPattern& pattern) { return !pattern.is_full(); });
  if (streaming == plan.patterns.end()) {
    result.erase(kKey);
    return result;
  }
  const BlockPattern pattern = *streaming;
  for (const BlockPattern& other : plan.patterns) {
    LOZA_CHECK(other.is_full() || other == pattern, other.sink_blocks, other.recent_blocks);
  }
  Json object = {
      {"sink_size", pattern.sink_blocks * pattern.block_size},
      {"recent_size", pattern.recent_blocks * pattern.block_size},
      {"sparsity",
       static_cast<double>(plan.num_streaming()) / static_cast<double>(plan.num_modules())},
      {"layer_type", plan.layer_type()},
  };
  if (pattern.block_size != kDefaultBlockSize) object["block_size"] = pattern.block_size;
  if (config.contains(kKey) && config[kKey].is_object()) {
    for (const char* kept : {kRopeParameters, kSinkDistance}) {
      if (config[kKey].contains(kept)) object[kept] = config[kKey][kept];
    }
  }
  result[kKey] = std::move(object);
  return result;
}

}  // namespace loza
