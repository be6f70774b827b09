// Documents whose positions jump at the haystack.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "loza/tasks/task.h"
#include "loza/tasks/tokenized.h"
#include "tests/tasks/task_fixture.h"

namespace loza {
namespace {

std::vector<std::int64_t> encode_bytes(std::string_view text) { return {text.begin(), text.end()}; }

class Spread : public Tasks {
 protected:
  // A token a byte, so that places in the text are tokens.
  TaskOptions in_bytes(std::int64_t spread_to) const {
    TaskOptions o = few_questions(8000, 2);
    o.count_tokens = [](auto text) { return static_cast<std::int64_t>(text.size()); };
    o.spread_to = spread_to;
    return o;
  }
};

bool is_contiguous(const TokenizedDocument& document, std::int64_t begin, std::int64_t end) {
  const auto at = [&](std::int64_t t) { return document.positions[static_cast<std::size_t>(t)]; };
  return at(end - 1) - at(begin) == end - 1 - begin;
}

TEST_F(Spread, PositionsRiseToTheEndOfTheSpan) {
  int cases = 0;
  for (const TaskInfo& task : tasks()) {
    if (std::string(task.name).starts_with("ppl")) continue;
    for (const std::int64_t spread_to : {2049, 3000, 50'000, 1'000'000}) {
      for (std::int64_t index = 0; index < 3; ++index, ++cases) {
        TaskOptions o = few_questions(2048, 6);
        o.spread_to = spread_to;
        const Document document = make_document(task.name, o, index);
        const TokenizedDocument tokens = tokenize_document(document, toy_encode);
        const std::int64_t len = tokens.length();
        EXPECT_EQ(len, count_document(document, toy_count));
        EXPECT_LE(len, 2048);
        EXPECT_GE(len, 2048 - 90) << task.name;
        ASSERT_EQ(tokens.positions.size(), tokens.ids.size());
        EXPECT_EQ(tokens.positions[0], 0);
        for (std::size_t t = 1; t < tokens.positions.size(); ++t) {
          ASSERT_GT(tokens.positions[t], tokens.positions[t - 1]);
        }
        EXPECT_LT(tokens.positions.back(), spread_to);
        // The last of 30 or more uniform draws: below 0.7 of the span once in 40,000 times.
        EXPECT_GT(tokens.positions.back(), len - 1 + (spread_to - 2048) * 7 / 10 - 1) << task.name;
      }
    }
  }
  EXPECT_EQ(cases, 18 * 4 * 3);
}

TEST_F(Spread, FactsQuestionsAndAnswersStayInOnePiece) {
  for (const char* task : {"lines", "noise", "copy", "vt-2"}) {
    const Document document = make_document(task, in_bytes(500'000), 1);
    const TokenizedDocument tokens = tokenize_document(document, encode_bytes);
    const std::string text = whole_text(document);
    ASSERT_EQ(text.size(), tokens.ids.size());
    const auto prompt_len = static_cast<std::int64_t>(document.prompt.size());
    EXPECT_TRUE(is_contiguous(tokens, prompt_len, tokens.length()));
    // All of these tasks' lines are pieces or facts: jumps are at their beginnings alone.
    std::int64_t num_jumps = 0;
    for (std::int64_t t = 1; t < prompt_len; ++t) {
      if (is_contiguous(tokens, t - 1, t + 1)) continue;
      EXPECT_EQ(text[static_cast<std::size_t>(t) - 1], '\n') << task << " " << t;
      ++num_jumps;
    }
    EXPECT_GT(num_jumps, 30) << task;
  }
}

TEST_F(Spread, ChangesNothingElse) {
  for (const char* task : {"lines", "niah", "vt", "cwe", "mrcr-2"}) {
    const Document plain = make_document(task, in_bytes(0), 1);
    const Document spread = make_document(task, in_bytes(100'000), 1);
    EXPECT_TRUE(plain.jumps.empty());
    EXPECT_FALSE(spread.jumps.empty());
    EXPECT_EQ(whole_text(plain), whole_text(spread));
    const TokenizedDocument a = tokenize_document(plain, encode_bytes);
    const TokenizedDocument b = tokenize_document(spread, encode_bytes);
    EXPECT_TRUE(a.positions.empty());
    EXPECT_EQ(a.ids, b.ids);
    EXPECT_EQ(a.is_answer, b.is_answer);
    EXPECT_EQ(tokenize_document(make_document(task, in_bytes(100'000), 1), encode_bytes).positions,
              b.positions);
    EXPECT_NE(tokenize_document(make_document(task, in_bytes(100'000), 2), encode_bytes).positions,
              b.positions);
  }
}

TEST_F(Spread, NeverShrinksADocumentAndLeavesPlainTextsAlone) {
  EXPECT_TRUE(make_document("lines", in_bytes(8000), 0).jumps.empty());
  EXPECT_TRUE(make_document("lines", in_bytes(10), 0).jumps.empty());
  EXPECT_TRUE(make_document("ppl", in_bytes(100'000), 0).jumps.empty());
}

TEST(TokenizedDocument, PositionsFollowTheJumps) {
  Document document{"ab cd ef", {{"?", "gh"}}};
  document.jumps = {{3, 10}, {6, 12}};
  const TokenizedDocument tokens = tokenize_document(document, encode_bytes);
  EXPECT_EQ(tokens.positions, (std::vector<std::int64_t>{0, 1, 2, 13, 14, 15, 18, 19, 20, 21, 22}));
}

TEST(TokenizedDocument, WindowsKeepTheirPositions) {
  Document document{"abcdef", {}};
  document.jumps = {{2, 5}, {5, 9}};
  const auto windows = cut_into_windows(tokenize_document(document, encode_bytes), 3);
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_EQ(windows[0].positions, (std::vector<std::int64_t>{0, 1, 7}));
  EXPECT_EQ(windows[1].positions, (std::vector<std::int64_t>{0, 1, 6}));
}

}  // namespace
}  // namespace loza
