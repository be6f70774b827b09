// Selection and the gates file: no model needed.
#include "loza/calibrate/gates_file.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "loza/base/error.h"
#include "loza/base/random.h"
#include "loza/calibrate/select.h"
#include "tests/support/hostile.h"
#include "tests/support/temp_folder.h"

namespace loza {
namespace {

using testing::HostileSuite;
using testing::TempFolder;

std::vector<bool> bits(const std::string& text) {
  std::vector<bool> result;
  for (const char c : text) result.push_back(c == '1');
  return result;
}

TEST(Select, TakesTheLowestByAlphaThenIndex) {
  const std::vector<double> alpha = {0.5, 0.1, 0.9, 0.1, 0.5, 0.5};
  const auto at = [&](double sparsity) { return select_lowest(alpha, sparsity); };
  EXPECT_EQ(at(0).streaming, bits("000000"));
  EXPECT_EQ(at(1.0 / 6).streaming, bits("010000"));
  EXPECT_EQ(at(2.0 / 6).streaming, bits("010100"));
  EXPECT_EQ(at(3.0 / 6).streaming, bits("110100"));
  EXPECT_EQ(at(4.0 / 6).streaming, bits("110110"));
  EXPECT_EQ(at(5.0 / 6).streaming, bits("110111"));
  EXPECT_EQ(at(1).streaming, bits("111111"));
  EXPECT_EQ(at(0).num_tied_at_cut, 0);
  EXPECT_EQ(at(1.0 / 6).num_tied_at_cut, 2);
  EXPECT_EQ(at(2.0 / 6).num_tied_at_cut, 0);
  EXPECT_EQ(at(3.0 / 6).num_tied_at_cut, 3);
  EXPECT_EQ(at(5.0 / 6).num_tied_at_cut, 0);
  EXPECT_EQ(at(1).num_tied_at_cut, 0);
}

TEST(Select, RoundsHalvesUp) {
  for (std::int64_t n = 1; n <= 80; ++n) {
    const std::vector<double> alpha(static_cast<std::size_t>(n), 0.0);
    for (std::int64_t percent = 0; percent <= 100; ++percent) {
      const std::int64_t expected = (2 * n * percent + 100) / 200;  // floor(n p / 100 + 1/2)
      EXPECT_EQ(select_lowest(alpha, static_cast<double>(percent) / 100).num_streaming(), expected)
          << n << " " << percent;
    }
  }
}

TEST(Select, AgreesWithSortingPairs) {
  Random random(2);
  for (int round = 0; round < 2000; ++round) {
    const std::int64_t n = 1 + random.below(40);
    std::vector<double> alpha;
    for (std::int64_t i = 0; i < n; ++i) {
      alpha.push_back(static_cast<double>(random.below(8)) / 4 - 0.5);  // many ties, -0.5 .. 1.25
    }
    const double sparsity = random.uniform();
    std::vector<std::pair<double, std::int64_t>> pairs;
    for (std::int64_t i = 0; i < n; ++i) pairs.emplace_back(alpha[static_cast<std::size_t>(i)], i);
    std::sort(pairs.begin(), pairs.end());
    const Selection selection = select_lowest(alpha, sparsity);
    std::vector<bool> expected(alpha.size(), false);
    for (std::int64_t i = 0; i < selection.num_streaming(); ++i) {
      expected[static_cast<std::size_t>(pairs[static_cast<std::size_t>(i)].second)] = true;
    }
    ASSERT_EQ(selection.streaming, expected) << round;
  }
}

TEST(Select, RefusesASparsityThatIsNone) {
  for (const double sparsity : {-0.1, 1.1, std::nan(""), HUGE_VAL}) {
    EXPECT_THROW(select_lowest({0.1, 0.2}, sparsity), Error) << sparsity;
  }
}

TEST(Select, MakesAPlan) {
  const AttentionPlan plan = select_plan({0.9, 0.1, 0.8, 0.2}, 0.5, {64, 2, 3}, "somewhere");
  EXPECT_EQ(plan.layer_type(), "0101");
  EXPECT_EQ(plan.patterns[1], (BlockPattern{64, 2, 3}));
  EXPECT_TRUE(plan.patterns[0].is_full());
  EXPECT_EQ(plan.origin, "somewhere");
}

TEST(RankCorrelation, MatchesKnownValues) {
  EXPECT_DOUBLE_EQ(rank_correlation({1, 2, 3, 4}, {10, 20, 30, 1000}), 1);
  EXPECT_DOUBLE_EQ(rank_correlation({1, 2, 3, 4}, {4, 3, 2, 1}), -1);
  EXPECT_DOUBLE_EQ(rank_correlation({1, 2, 3, 4, 5}, {2, 1, 4, 3, 5}), 0.8);  // 1 - 6*4/120
  // With ties, as scipy.stats.spearmanr computes it.
  EXPECT_NEAR(rank_correlation({1, 2, 2, 3}, {1, 2, 3, 4}), 0.9486832980505138, 1e-15);
  EXPECT_NEAR(rank_correlation({0, 0, 0, 1, 2}, {5, 6, 7, 7, 8}), 7 / std::sqrt(76.0), 1e-15);
  EXPECT_TRUE(std::isnan(rank_correlation({1, 1, 1}, {1, 2, 3})));
  EXPECT_TRUE(std::isnan(rank_correlation({1}, {2})));
}

TEST(Overlap, CountsSharedFullModules) {
  const auto overlap = [](const std::string& a, const std::string& b) {
    return full_overlap({bits(a)}, {bits(b)});
  };
  EXPECT_EQ(overlap("0101", "0101"), 1);
  EXPECT_EQ(overlap("0101", "1010"), 0);
  EXPECT_EQ(overlap("0011", "0101"), 0.5);
  EXPECT_EQ(overlap("1111", "1111"), 1);
}

TEST(GatesFile, ReadsTheSmallestFile) {
  const GatesFile gates = parse_gates(R"({"alpha": [1, 0.5, -2e3, 0]})", "gates.json", 4);
  EXPECT_EQ(gates.alpha, (std::vector<double>{1, 0.5, -2000, 0}));
  EXPECT_EQ(gates.criterion, "");
  EXPECT_EQ(parse_gates(R"({"alpha": [1]})", "gates.json").alpha.size(), 1u);
  EXPECT_EQ(
      parse_gates(R"({"note": [{"x": null}], "alpha": [1], "criterion": "mine"})", "g").criterion,
      "mine");
}

TEST(GatesFile, ReadsWhatItWrote) {
  const TempFolder folder;
  Calibration calibration;
  calibration.options.num_seeds = 2;
  calibration.seeds.resize(2);
  calibration.seeds[0] = {0, {0.1, 1.0 / 3, 1e-300}, {0.5}, {}, 100, std::string(64, 'a'), 2.5};
  calibration.seeds[1] = {1, {0.2, 2.0 / 3, 0}, {0.5}, {}, 200, std::string(64, 'b'), 2.5};
  calibration.alpha = {0.15000000000000002, 0.5, 5e-301};
  calibration.weights_hash = std::string(64, 'c');
  write_gates(folder / "gates.json", calibration);
  const GatesFile gates = read_gates(folder / "gates.json", 3);
  EXPECT_EQ(gates.alpha, calibration.alpha);
  EXPECT_EQ(gates.criterion, "alpha");
  EXPECT_EQ(gates.members["pattern"]["block_size"], 32);
  EXPECT_EQ(gates.members["seeds"][1]["alpha"][1].get<double>(), 2.0 / 3);
  EXPECT_EQ(gates.members["data_hash"].get<std::string>().size(), 64u);
  EXPECT_FALSE(gates.members.contains("seconds"));
}

TEST(GatesFile, RefusesHostileFiles) {
  HostileSuite suite("gates files");
  const auto refuse = [&](const std::string& name, const std::string& fragment,
                          const std::string& text, std::optional<std::int64_t> modules = {}) {
    suite.expect_bad_input(
        name, fragment, [&] { parse_gates(text, "gates.json", modules); }, text.size());
  };
  refuse("empty", "valid JSON", "");
  refuse("spaces", "valid JSON", "   ");
  refuse("cut", "valid JSON", R"({"alpha": [1, 2)");
  refuse("more behind", "valid JSON", R"({"alpha": [1]} {})");
  refuse("comma", "valid JSON", R"({"alpha": [1,]})");
  refuse("single quotes", "valid JSON", R"({'alpha': [1]})");
  refuse("NUL", "valid JSON", std::string("{\"alpha\": [1]}\0", 15));
  refuse("not UTF-8", "valid JSON", "{\"alpha\": [1], \"x\": \"\xff\"}");
  refuse("UTF-16", "valid JSON", std::string("\xff\xfe{\0}\0", 6));
  refuse("binary", "valid JSON", std::string("\x93NUMPY\x01\x00v", 9));
  refuse("NaN", "valid JSON", R"({"alpha": [NaN]})");
  refuse("Infinity", "valid JSON", R"({"alpha": [Infinity]})");
  refuse("overflow", "valid JSON", R"({"alpha": [1e999]})");
  refuse("negative overflow", "valid JSON", R"({"alpha": [-1e999]})");
  refuse("hex", "valid JSON", R"({"alpha": [0x10]})");
  refuse("plus", "valid JSON", R"({"alpha": [+1]})");
  refuse("deep", "deep", R"({"alpha": )" + std::string(100, '[') + std::string(100, ']') + "}");
  refuse("very deep", "", std::string(1'000'000, '['));
  refuse("twice", "twice", R"({"alpha": [1], "alpha": [2]})");
  refuse("an array", "an object with \"alpha\"", "[1, 2]");
  refuse("a number", "an object with \"alpha\"", "7");
  refuse("null", "an object with \"alpha\"", "null");
  refuse("a string", "an object with \"alpha\"", R"("alpha")");
  refuse("no alpha", "an object with \"alpha\"", R"({"Alpha": [1]})");
  refuse("alpha null", "an array of numbers", R"({"alpha": null})");
  refuse("alpha a number", "an array of numbers", R"({"alpha": 1})");
  refuse("alpha a string", "an array of numbers", R"({"alpha": "1, 2"})");
  refuse("alpha an object", "an array of numbers", R"({"alpha": {"0": 1}})");
  refuse("empty alpha", "1 to 1000000 numbers", R"({"alpha": []})");
  refuse("empty alpha of a model", "4 numbers", R"({"alpha": []})", 4);
  refuse("too few", "4 numbers", R"({"alpha": [1, 2, 3]})", 4);
  refuse("too many", "4 numbers", R"({"alpha": [1, 2, 3, 4, 5]})", 4);
  refuse("a string inside", "alpha[1]", R"({"alpha": [1, "2"]})");
  refuse("a null inside", "alpha[0]", R"({"alpha": [null]})");
  refuse("a bool inside", "alpha[2]", R"({"alpha": [1, 2, true]})");
  refuse("an array inside", "alpha[0]", R"({"alpha": [[1, 2]]})");
  refuse("an object inside", "alpha[0]", R"({"alpha": [{"value": 1}]})");
  refuse("criterion a number", "criterion", R"({"alpha": [1], "criterion": 1})");
  refuse("criterion null", "criterion", R"({"alpha": [1], "criterion": null})");
  refuse("a long string", "", R"({"alpha": [")" + std::string(10'000'000, 'x') + "\"]}");
  std::string many = R"({"alpha": [0)";
  for (int i = 0; i < 1'000'000; ++i) many += ",0";
  refuse("a million and one", "1 to 1000000 numbers", many + "]}");

  const TempFolder folder;
  suite.expect_bad_input("absent", "absent.json", [&] { read_gates(folder / "absent.json"); });
  suite.expect_bad_input("a folder", "", [&] { read_gates(folder.path()); });
}

}  // namespace
}  // namespace loza
