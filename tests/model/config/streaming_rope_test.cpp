#include <gtest/gtest.h>

#include <string>

#include "loza/base/error.h"
#include "loza/model/config.h"
#include "loza/model/plan.h"
#include "loza/model/rope_scaling.h"
#include "tests/model/config/configs.h"
#include "tests/support/hostile.h"

namespace loza {
namespace {

constexpr const char* kPlace = "config.json";
constexpr const char* kPlanKey = "streaming_sparse_attention";

Json zigzag(const Json& config) {
  return with_plan(config, AttentionPlan::from_choice({false, true, false, true}, {16, 1, 3}, ""));
}

RopeChange yarn_of(RopeChange::Of of, double factor) {
  RopeChange change;
  change.factor = factor;
  change.of = of;
  return change;
}

TEST(StreamingRope, IsTheModelsOwnWithoutFields) {
  Json config = zigzag(testing::mla_config("deepseek_v3"));
  config["rope_scaling"] = testing::yarn();
  const ModelConfig model = read_model_config(config, kPlace);
  EXPECT_FALSE(model.has_rope_by_kind);
  EXPECT_FALSE(model.sink_is_capped);
  EXPECT_EQ(model.streaming_rope.scaling, RopeConfig::Scaling::kYarn);
  EXPECT_EQ(model.streaming_softmax_scale, model.softmax_scale);
}

TEST(StreamingRope, StaysWhereFullModulesAreStretched) {
  for (const std::string family : {"llama", "deepseek_v3"}) {
    Json before =
        zigzag(family == "llama" ? testing::gqa_config(family) : testing::mla_config(family));
    const ModelConfig plain = read_model_config(before, kPlace);
    RopeChange change = yarn_of(RopeChange::Of::kFull, 8);
    change.sink_is_capped = true;
    const Json after = with_rope(before, change, kPlace);
    const ModelConfig model = read_model_config(after, kPlace);
    EXPECT_TRUE(model.has_rope_by_kind);
    EXPECT_TRUE(model.sink_is_capped);
    EXPECT_EQ(model.rope.scaling, RopeConfig::Scaling::kYarn);
    EXPECT_EQ(model.max_position, 8 * plain.max_position);
    EXPECT_EQ(model.streaming_rope.scaling, RopeConfig::Scaling::kNone);
    EXPECT_EQ(model.streaming_rope.theta, plain.rope.theta);
    EXPECT_EQ(model.streaming_softmax_scale, plain.softmax_scale);

    // Stretched again, the streaming modules still have what they were trained with; for all
    // modules, they have it no more. The sink is another matter.
    const ModelConfig further =
        read_model_config(with_rope(after, yarn_of(RopeChange::Of::kFull, 32), kPlace), kPlace);
    EXPECT_EQ(further.streaming_rope.scaling, RopeConfig::Scaling::kNone);
    const ModelConfig together =
        read_model_config(with_rope(after, yarn_of(RopeChange::Of::kAll, 32), kPlace), kPlace);
    EXPECT_FALSE(together.has_rope_by_kind);
    EXPECT_EQ(together.streaming_rope.factor, 32);
    EXPECT_TRUE(together.sink_is_capped);
    RopeChange back;
    back.sink_is_capped = false;
    EXPECT_FALSE(read_model_config(with_rope(after, back, kPlace), kPlace).sink_is_capped);

    // Another plan keeps the fields.
    const ModelConfig replanned = read_model_config(
        with_plan(after, AttentionPlan::from_choice({true, true, false, true}, {16, 1, 3}, "")),
        kPlace);
    EXPECT_TRUE(replanned.has_rope_by_kind);
    EXPECT_TRUE(replanned.sink_is_capped);
  }
}

// A RoPE that is scaled already is kept complete: with its factor and its original context, which
// the model's new ones no longer tell.
TEST(StreamingRope, KeepsAnEarlierScaling) {
  Json before = zigzag(testing::mla_config("deepseek_v3"));
  before["rope_scaling"] = testing::yarn();
  before["rope_scaling"]["mscale"] = 1.0;
  before["rope_scaling"]["mscale_all_dim"] = 0.7;
  const ModelConfig plain = read_model_config(before, kPlace);
  const ModelConfig model =
      read_model_config(with_rope(before, yarn_of(RopeChange::Of::kFull, 64), kPlace), kPlace);
  EXPECT_EQ(model.rope.factor, 64);
  EXPECT_EQ(model.streaming_rope.factor, plain.rope.factor);
  EXPECT_EQ(model.streaming_rope.original_max_position, plain.rope.original_max_position);
  EXPECT_EQ(model.streaming_softmax_scale, plain.softmax_scale);
  EXPECT_NE(model.softmax_scale, plain.softmax_scale);
}

TEST(StreamingRope, NeedsStreamingModules) {
  const Json dense = testing::gqa_config("llama");
  EXPECT_THROW(with_rope(dense, yarn_of(RopeChange::Of::kFull, 2), kPlace), Error);
  RopeChange sink;
  sink.sink_is_capped = true;
  EXPECT_THROW(with_rope(dense, sink, kPlace), Error);
  EXPECT_NO_THROW(with_rope(dense, yarn_of(RopeChange::Of::kAll, 2), kPlace));
}

TEST(HostileStreamingRope, EveryFieldChecked) {
  testing::HostileSuite suite("streaming rope");
  const auto refuse = [&](const char* key, const char* value, const std::string& fragment) {
    Json config = zigzag(testing::gqa_config("llama"));
    config[kPlanKey][key] = Json::parse(value);
    suite.expect_bad_input(std::string(key) + " = " + value, fragment,
                           [&] { read_model_config(config, kPlace); });
  };
  for (const char* value : {"5", "\"yarn\"", "[]", "true"}) {
    refuse("rope_parameters", value, "rope_parameters");
  }
  refuse("rope_parameters", R"({"rope_type": "ntk"})", "rope_type");
  refuse("rope_parameters", R"({"rope_type": "yarn", "factor": -1})", "factor");
  refuse("rope_parameters", R"({"rope_type": "default", "rope_theta": "far"})", "rope_theta");
  for (const char* value : {"\"far\"", "1", "true", "{}"}) {
    refuse("sink_distance", value, "sink_distance");
  }
}

}  // namespace
}  // namespace loza
