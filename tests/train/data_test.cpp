#include "loza/train/data.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "loza/base/error.h"
#include "loza/base/hash.h"
#include "tests/support/temp_folder.h"
#include "tests/train/byte_tokenizer.h"

namespace loza {
namespace {

using testing::TempFolder;

class DataTest : public ::testing::Test {
 protected:
  // Rows "0000", "0001", ... as prompts of 20 bytes with one-byte answers.
  std::filesystem::path write_rows(const std::string& name, int count) const {
    std::string rows;
    for (int i = 0; i < count; ++i) {
      rows += fmt::format("{{\"prompt\": \"{:020}\", \"answer\": \"x\"}}\n", i);
    }
    return folder_.write(name, rows);
  }
  std::string text_of(const TokenizedDocument& document) const {
    return tokenizer_.decode(document.ids);
  }
  Data open(const std::string& sources, std::int64_t length = 2048) const {
    return Data({.sources = sources, .length = length, .num_questions = 3, .prose = {}, .code = {}},
                tokenizer_);
  }

  TempFolder folder_;
  Tokenizer tokenizer_ = testing::byte_tokenizer();
};

TEST_F(DataTest, IsAFunctionOfSeedAndIndex) {
  const std::string sources = "lines,noise," + write_rows("rows.jsonl", 5).string();
  const Data a = open(sources), b = open(sources);
  std::set<std::string> texts;
  for (const std::uint64_t seed : {0, 1, 2}) {
    for (std::int64_t i = 20; i >= 0; --i) {
      const TokenizedDocument document = a.draw(seed, i);
      EXPECT_EQ(document.ids, b.draw(seed, i).ids) << seed << " " << i;
      EXPECT_EQ(document.is_answer, b.draw(seed, i).is_answer);
      EXPECT_LE(document.length(), 2048);
      texts.insert(text_of(document));
    }
  }
  EXPECT_EQ(texts.size(), 3u * 14 + 5);  // generated ones all differ; five rows
}

TEST_F(DataTest, SeesEachSourceOnceARoundAndEachRowOnceAnEpoch) {
  const Data data =
      open(write_rows("a.jsonl", 7).string() + "," + write_rows("b.jsonl", 3).string());
  for (const std::uint64_t seed : {0, 5, 123456789}) {
    std::multiset<std::string> rows;
    for (std::int64_t i = 0; i < 2 * 21; ++i) rows.insert(text_of(data.draw(seed, i)));
    // 21 draws of each source: rows 0..2 three times by a and seven times by b.
    for (int row = 0; row < 7; ++row) {
      EXPECT_EQ(rows.count(fmt::format("{:020}x", row)), row < 3 ? 10u : 3u) << row;
    }
  }
}

TEST_F(DataTest, OrdersDifferBetweenSeedsAndEpochs) {
  const Data data = open(write_rows("a.jsonl", 11).string());
  std::set<std::string> orders;
  for (const std::uint64_t seed : {0, 1, 2, 3}) {
    for (std::int64_t epoch = 0; epoch < 4; ++epoch) {
      std::string order;
      for (std::int64_t i = 0; i < 11; ++i) order += text_of(data.draw(seed, epoch * 11 + i));
      orders.insert(order);
    }
  }
  EXPECT_GE(orders.size(), 13u);  // of 16; there are 110 such orders
}

TEST_F(DataTest, CutsPlainTextAndKeepsRowsWhole) {
  folder_.write("plain.txt", std::string(250, 'a'));
  const Data plain = open((folder_ / "plain.txt").string(), 100);
  std::multiset<std::int64_t> lengths;
  for (std::int64_t i = 0; i < 3; ++i) {
    const TokenizedDocument window = plain.draw(0, i);
    EXPECT_EQ(window.is_answer[0], 0);
    EXPECT_EQ(window.is_answer[1], 1);
    lengths.insert(window.length());
  }
  EXPECT_EQ(lengths, (std::multiset<std::int64_t>{50, 100, 100}));

  const Data rows = open(write_rows("rows.jsonl", 1).string(), 10);
  const TokenizedDocument row = rows.draw(0, 0);
  EXPECT_EQ(row.length(), 21);
  EXPECT_EQ(row.is_answer.back(), 1);
  EXPECT_EQ(row.is_answer[19], 0);
}

TEST_F(DataTest, DiffersFromAnEvaluationWithTheSameSeed) {
  TaskOptions options;
  options.length = 2048;
  options.num_questions = 3;
  options.count_tokens = [&](std::string_view text) {
    return static_cast<std::int64_t>(tokenizer_.encode(text).size());
  };
  EXPECT_NE(text_of(open("noise").draw(0, 0)).substr(0, 1000),
            make_document("noise", options, 0).prompt.substr(0, 1000));
}

TEST_F(DataTest, TaskNamesMayHaveASuffix) {
  const Data data = open("vt:1,noise:2*2");
  std::map<std::string, int> kinds;
  for (std::int64_t i = 0; i < 6; ++i) {
    const TokenizedDocument document = data.draw(0, i);
    ++kinds[document.kind];
    if (document.kind != "noise:2") continue;
    EXPECT_NE(text_of(document).find("Registrar's note: "), std::string::npos);
  }
  EXPECT_EQ(kinds, (std::map<std::string, int>{{"vt:1", 2}, {"noise:2", 4}}));
}

TEST_F(DataTest, SpreadDocumentsHavePositionsThatCount) {
  const auto hash_of = [](const TokenizedDocument& document) {
    Sha256 hash;
    hash_document(hash, document);
    return hash.hex_digest();
  };
  DataOptions options{.sources = "lines", .num_questions = 3, .prose = {}, .code = {}};
  const TokenizedDocument plain = Data(options, tokenizer_).draw(0, 0);
  options.spread_to = 100'000;
  TokenizedDocument spread = Data(options, tokenizer_).draw(0, 0);
  EXPECT_TRUE(plain.positions.empty());
  EXPECT_EQ(plain.ids, spread.ids);
  EXPECT_GT(spread.positions.back(), 50'000);
  const std::string hash = hash_of(spread);
  EXPECT_NE(hash, hash_of(plain));
  ++spread.positions.back();
  EXPECT_NE(hash, hash_of(spread));
}

TEST_F(DataTest, AShareOfTheDocumentsIsSpread) {
  DataOptions options{.sources = "lines", .num_questions = 3, .prose = {}, .code = {}};
  options.spread_to = 100'000;
  const auto spread = [&](double share) {
    options.spread_share = share;
    const Data data(options, tokenizer_);
    std::vector<bool> is_spread;
    for (std::int64_t i = 0; i < 60; ++i) is_spread.push_back(!data.draw(7, i).positions.empty());
    return is_spread;
  };
  const std::vector<bool> half = spread(0.5);
  EXPECT_NEAR(std::count(half.begin(), half.end(), true), 30, 12);
  EXPECT_EQ(spread(0.5), half);
  EXPECT_EQ(spread(1), std::vector<bool>(60, true));
  EXPECT_EQ(spread(0), std::vector<bool>(60, false));
}

TEST_F(DataTest, NamesWhatIsWrong) {
  const auto code_of = [&](const std::string& sources, std::int64_t length = 100) {
    try {
      open(sources, length).draw(0, 0);
    } catch (const Error& error) {
      return error.code();
    }
    return ExitCode::kOk;
  };
  EXPECT_EQ(code_of("no-such-task"), ExitCode::kUsage);
  EXPECT_EQ(code_of(""), ExitCode::kUsage);
  EXPECT_EQ(code_of("lines,"), ExitCode::kUsage);
  EXPECT_EQ(code_of("noise", 1), ExitCode::kUsage);
  EXPECT_EQ(code_of("noise:9", 2000), ExitCode::kUsage);
  EXPECT_EQ(code_of("lines:1", 2000), ExitCode::kUsage);
  EXPECT_EQ(code_of("niah", 1000), ExitCode::kUsage);  // no text to hide in
  EXPECT_EQ(code_of((folder_ / "absent.jsonl").string()), ExitCode::kBadInput);
  folder_.write("empty.jsonl", "");
  EXPECT_EQ(code_of((folder_ / "empty.jsonl").string()), ExitCode::kBadInput);
  folder_.write("broken.jsonl", "{\"prompt\": 1}\n");
  EXPECT_EQ(code_of((folder_ / "broken.jsonl").string()), ExitCode::kBadInput);
}

}  // namespace
}  // namespace loza
