#include "loza/model/plan.h"

#include <gtest/gtest.h>

#include <string>

#include "loza/base/error.h"
#include "tests/support/hostile.h"

namespace loza {
namespace {

constexpr const char* kKey = "streaming_sparse_attention";

Json config_with(const Json& plan) { return {{"model_type", "llama"}, {kKey, plan}}; }

TEST(Plan, DenseWithoutTheKey) {
  const AttentionPlan plan = read_plan(Json{{"model_type", "llama"}}, 3, "config.json");
  EXPECT_EQ(plan.num_modules(), 3);
  EXPECT_EQ(plan.num_streaming(), 0);
  EXPECT_EQ(plan.layer_type(), "000");
}

TEST(Plan, ReadsReleasedCheckpoints) {
  const AttentionPlan plan = read_plan(
      config_with(
          {{"sink_size", 128}, {"recent_size", 896}, {"sparsity", 0.5}, {"layer_type", "0110"}}),
      4, "config.json");
  EXPECT_EQ(plan.layer_type(), "0110");
  EXPECT_EQ(plan.patterns[1], (BlockPattern{128, 1, 7}));
  EXPECT_TRUE(plan.patterns[0].is_full());
}

TEST(Plan, SizesBecomeBlocksByRoundingUp) {
  const auto pattern = [](const Json& plan) {
    return read_plan(config_with(plan), 1, "config.json").patterns[0];
  };
  EXPECT_EQ(pattern({{"sink_size", 0}, {"recent_size", 1}, {"layer_type", "1"}}),
            (BlockPattern{128, 0, 1}));
  EXPECT_EQ(pattern({{"sink_size", 129}, {"recent_size", 1024}, {"layer_type", "1"}}),
            (BlockPattern{128, 2, 8}));
  EXPECT_EQ(pattern({{"sink_size", 128}, {"layer_type", "1"}}), (BlockPattern{128, 1, 2}))
      << "a missing recent_size means 256 tokens";
  EXPECT_EQ(pattern({{"sink_size", 128}, {"recent_size", nullptr}, {"layer_type", "1"}}),
            (BlockPattern{128, 1, 2}));
  EXPECT_EQ(
      pattern({{"sink_size", 16}, {"recent_size", 50}, {"block_size", 16}, {"layer_type", "1"}}),
      (BlockPattern{16, 1, 4}));
}

TEST(Plan, WritesWhatItReads) {
  const Json before = {{"a", 1}, {kKey, {{"layer_type", "11"}}}, {"b", {2, 3}}};
  for (const BlockPattern pattern :
       {BlockPattern{128, 1, 7}, BlockPattern{16, 2, 3}, BlockPattern{128, 0, 1}}) {
    const AttentionPlan plan =
        AttentionPlan::from_choice({true, false, true, false}, pattern, "alpha");
    const Json after = with_plan(before, plan);
    const AttentionPlan again = read_plan(after, 4, "config.json");
    EXPECT_EQ(again.patterns, plan.patterns);
    EXPECT_EQ(after[kKey]["sparsity"], 0.5);
    EXPECT_EQ(after[kKey].contains("block_size"), pattern.block_size != 128);
    // Other keys keep value and order.
    EXPECT_EQ(after.dump().find("{\"a\":1,"), 0u);
    EXPECT_EQ(after["b"], before["b"]);
  }
  const Json dense = with_plan(before, AttentionPlan::dense(4));
  EXPECT_EQ(dense.dump(), "{\"a\":1,\"b\":[2,3]}");
}

TEST(Plan, MixedPatternsCannotBeWritten) {
  AttentionPlan plan = AttentionPlan::from_choice({true, true}, {128, 1, 7}, "");
  plan.patterns[1].recent_blocks = 3;
  EXPECT_THROW(with_plan(Json::object(), plan), std::logic_error);
}

TEST(HostilePlan, EveryFieldChecked) {
  testing::HostileSuite suite("plan");
  const Json good = {{"sink_size", 128},
                     {"recent_size", 896},
                     {"sparsity", 0.5},
                     {"layer_type", "0110"},
                     {"block_size", 128}};
  const auto refuse = [&](const std::string& title, const Json& plan, const std::string& fragment) {
    suite.expect_bad_input(title, fragment,
                           [&] { read_plan(config_with(plan), 4, "config.json"); });
  };
  const auto changed = [&](const std::string& key, const char* value) {
    Json plan = good;
    plan[key] = Json::parse(value);
    return plan;
  };
  for (const char* value :
       {"-1", "1e308", "9223372036854775808", "0.5", "\"128\"", "true", "[]", "{}"}) {
    for (const char* key : {"sink_size", "recent_size", "block_size"}) {
      refuse(std::string(key) + " = " + value, changed(key, value), key);
    }
  }
  refuse("no recent tokens", changed("recent_size", "0"), "recent_size");
  refuse("blocks of 0", changed("block_size", "0"), "block_size");
  refuse("blocks of 2^21", changed("block_size", "2097152"), "block_size");
  refuse("more blocks than can be counted", changed("recent_size", "1099511627776"), "recent_size");
  refuse("a sink of everything", changed("sink_size", "1099511627776"), "sink_size");
  for (const char* value : {"-0.1", "1.1", "1e308", "\"half\"", "true", "[0.5]"}) {
    refuse(std::string("sparsity = ") + value, changed("sparsity", value), "sparsity");
  }
  for (const char* value : {"\"011\"", "\"01100\"", "\"\"", "\"012x\"", "\"0 10\"", "\"O110\"",
                            "null", "110", "[0,1,1,0]", "true"}) {
    refuse(std::string("layer_type = ") + value, changed("layer_type", value), "layer_type");
  }
  Json plan = good;
  plan.erase("layer_type");
  refuse("layer_type missing", plan, "layer_type");
  plan = good;
  plan.erase("sink_size");
  refuse("sink_size missing", plan, "sink_size");
  refuse("an unknown key", changed("window", "1"), "window");
  for (const char* value : {"[]", "\"0110\"", "1", "true"}) {
    refuse(std::string("the whole = ") + value, Json::parse(value), kKey);
  }
}

}  // namespace
}  // namespace loza
