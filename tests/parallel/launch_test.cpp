#include "loza/parallel/launch.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "loza/base/error.h"

namespace loza {
namespace {

using Environment = std::map<std::string, std::string>;

std::optional<Launch> launch_in(const Environment& environment) {
  return read_launch([&](const char* name) -> const char* {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

const Environment kTorchrun = {{"RANK", "5"},
                               {"WORLD_SIZE", "8"},
                               {"LOCAL_RANK", "1"},
                               {"LOCAL_WORLD_SIZE", "4"},
                               {"MASTER_ADDR", "node0"},
                               {"MASTER_PORT", "29500"},
                               {"TORCHELASTIC_USE_AGENT_STORE", "True"}};

TEST(Launch, ReadsWhatTorchrunSays) {
  const auto launch = launch_in(kTorchrun);
  ASSERT_TRUE(launch);
  EXPECT_EQ(launch->rank, 5);
  EXPECT_EQ(launch->size, 8);
  EXPECT_EQ(launch->local_rank, 1);
  EXPECT_EQ(launch->local_size, 4);
  EXPECT_EQ(launch->address, "node0");
  EXPECT_EQ(launch->port, 29500);
  EXPECT_TRUE(launch->has_store);
  Environment without_agent = kTorchrun;
  without_agent["TORCHELASTIC_USE_AGENT_STORE"] = "False";
  EXPECT_FALSE(launch_in(without_agent)->has_store);
}

TEST(Launch, IsNothingWithoutALauncher) {
  EXPECT_FALSE(launch_in({}));
  EXPECT_FALSE(launch_in({{"MASTER_ADDR", "node0"}, {"LOCAL_RANK", "x"}}));
}

TEST(Launch, FillsInASingleHost) {
  const auto launch =
      launch_in({{"RANK", "2"}, {"WORLD_SIZE", "3"}, {"MASTER_ADDR", "::1"}, {"MASTER_PORT", "1"}});
  ASSERT_TRUE(launch);
  EXPECT_EQ(launch->local_rank, 2);
  EXPECT_EQ(launch->local_size, 3);
  EXPECT_EQ(launch_in({{"RANK", "0"}, {"WORLD_SIZE", "1"}})->size, 1);
}

TEST(Launch, NamesWhatMakesNoSense) {
  const std::map<std::string, std::vector<std::string>> bad = {
      {"RANK", {"", "-1", "8", "x", "1x", " 1", "1 ", "+1", "0x1", "1.0", "99999999999999999999"}},
      {"WORLD_SIZE", {"", "0", "-8", "5", "1048577", "eight", "8,8"}},  // 5: rank 5 is not in it
      {"LOCAL_RANK", {"", "-1", "4", "x"}},
      {"LOCAL_WORLD_SIZE", {"", "0", "9", "x"}},
      {"MASTER_ADDR", {""}},
      {"MASTER_PORT", {"", "0", "65536", "-1", "port", "29500 "}}};
  int num_cases = 0;
  const auto expect_refused = [&](const Environment& environment, const std::string& name) {
    ++num_cases;
    const std::string reported = name == "WORLD_SIZE" ? "" : name;
    try {
      launch_in(environment);
      ADD_FAILURE() << name << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kUsage);
      EXPECT_NE(std::string(error.what()).find("environment variable " + reported),
                std::string::npos)
          << error.what();
      EXPECT_NE(std::string(error.what()).find("torchrun"), std::string::npos);
    }
  };
  for (const auto& [name, values] : bad) {
    for (const std::string& value : values) {
      Environment environment = kTorchrun;
      environment[name] = value;
      expect_refused(environment, name);
    }
  }
  for (const char* name : {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}) {
    Environment environment = kTorchrun;
    environment.erase(name);
    expect_refused(environment, name);
  }
  EXPECT_EQ(num_cases, 37);
}

}  // namespace
}  // namespace loza
