#include "loza/tasks/task.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <string>

#include "loza/base/error.h"
#include "loza/base/hash.h"
#include "loza/base/random.h"
#include "loza/tasks/haystack.h"
#include "loza/tasks/tokenized.h"
#include "loza/tasks/words.h"
#include "tests/tasks/task_fixture.h"

namespace loza {
namespace {

// The sentence of the prompt that answers a turn's question.
std::string fact_of(const std::string& task, const Turn& turn) {
  const auto between = [&](const char* before, const char* after) {
    const std::size_t begin = turn.question.find(before) + std::string(before).size();
    return turn.question.substr(begin, turn.question.find(after, begin) - begin);
  };
  if (task == "lines") {
    return "line " + between("in line ", "?") + ": REGISTER_CONTENT is <" + turn.answer + ">\n";
  }
  return "One of the special magic numbers for " + between("number for ", " mentioned") +
         " is:" + turn.answer + ".\n";
}

const char* const kQuestionTasks[] = {"lines", "niah", "noise"};

TEST(UniqueNames, HaveThreeWordsWhereTwoAreUsedUp) {
  Random random(3);
  UniqueNames names(random);
  std::set<std::string> seen;
  for (int i = 0; i < 80'000; ++i) {
    const std::string name = names.next();
    EXPECT_EQ(std::count(name.begin(), name.end(), '-'), i < 65'536 ? 1 : 2) << name;
    EXPECT_TRUE(seen.insert(name).second) << name;
  }
}

TEST(UniqueNumbers, ComeAgainWhenTheyAreUsedUp) {
  Random random(3);
  UniqueNumbers numbers(random, 2);
  for (int round = 0; round < 20; ++round) {
    std::set<std::string> seen;
    for (int i = 0; i < 81; ++i) EXPECT_TRUE(seen.insert(numbers.next()).second);
  }
}

TEST_F(Tasks, AreAllRegistered) {
  std::set<std::string> names;
  for (const TaskInfo& task : tasks()) names.insert(task.name);
  EXPECT_EQ(names, (std::set<std::string>{"lines",
                                          "niah",
                                          "noise",
                                          "niah-single-1",
                                          "niah-single-2",
                                          "niah-single-3",
                                          "niah-multikey-1",
                                          "niah-multikey-2",
                                          "niah-multikey-3",
                                          "niah-multivalue",
                                          "niah-multiquery",
                                          "vt",
                                          "vt-2",
                                          "cwe",
                                          "fwe",
                                          "mrcr-2",
                                          "mrcr-4",
                                          "copy",
                                          "ppl",
                                          "ppl-code"}));
  EXPECT_EQ(tasks().size(), names.size());
  EXPECT_EQ(find_task("lines")->name, std::string("lines"));
  EXPECT_EQ(find_task("line"), nullptr);
}

TEST_F(Tasks, SameSeedSameTextOtherSeedOtherText) {
  for (const TaskInfo& task : tasks()) {
    std::set<std::string> texts;
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      for (std::int64_t index = 0; index < 5; ++index) {
        const TaskOptions o = few_questions(900, seed);
        const std::string text = whole_text(make_document(task.name, o, index));
        EXPECT_EQ(text, whole_text(make_document(task.name, o, index)));
        texts.insert(text);
      }
    }
    EXPECT_EQ(texts.size(), 25u) << task.name;
  }
}

// Pins the text for ever: results of different versions and machines stay comparable.
TEST_F(Tasks, TextIsTheSameEverywhere) {
  const auto hash = [&](const char* task) {
    return sha256_hex(whole_text(make_document(task, options(600, 42), 3))).substr(0, 16);
  };
  EXPECT_EQ(hash("lines"), "0b1e737691ff6306");
  EXPECT_EQ(hash("niah"), "c21a25c0530b3211");
  EXPECT_EQ(hash("noise"), "6af65f3e5f741c42");
  EXPECT_EQ(hash("ppl"), "e8babdf6f106b545");
  EXPECT_EQ(hash("ppl-code"), "5f98457d402791eb");
}

TEST_F(Tasks, LengthIsNeverMoreAndHardlyLess) {
  int cases = 0;
  for (const TaskInfo& task : tasks()) {
    for (const std::int64_t length : {800, 1024, 2048, 4096, 7600, 16384}) {
      for (std::int64_t index = 0; index < 4; ++index, ++cases) {
        const Document document = make_document(task.name, few_questions(length, 9), index);
        const std::int64_t len = tokenize_document(document, toy_encode).length();
        EXPECT_LE(len, length) << task.name << " " << index;
        EXPECT_GE(len, length - std::max<std::int64_t>(90, length / 64))
            << task.name << " " << index;
      }
    }
  }
  EXPECT_EQ(cases, 480);
}

TEST_F(Tasks, EachQuestionIsAnsweredExactlyOnce) {
  for (const char* task : kQuestionTasks) {
    for (std::int64_t index = 0; index < 20; ++index) {
      const Document document = make_document(task, options(2048, 1), index);
      ASSERT_EQ(document.turns.size(), 8u);
      std::set<std::string> questions;
      for (const Turn& turn : document.turns) {
        const std::string fact = fact_of(task, turn);
        EXPECT_EQ(count_in(document.prompt, fact), 1u) << fact;
        EXPECT_EQ(count_in(document.prompt, fact.substr(0, fact.rfind(turn.answer))), 1u) << fact;
        questions.insert(fact);
      }
      EXPECT_EQ(questions.size(), 8u);
    }
  }
}

TEST_F(Tasks, NamesAndNumbersAreUnique) {
  const Document document = make_document("lines", options(8192), 0);
  std::set<std::string> names;
  std::size_t num_lines = 0;
  for (std::size_t at = document.prompt.find("\nline "); at != std::string::npos;
       at = document.prompt.find("\nline ", at + 1), ++num_lines) {
    names.insert(document.prompt.substr(at, document.prompt.find(':', at) - at));
  }
  EXPECT_GT(num_lines, 300u);
  EXPECT_EQ(names.size(), num_lines);
}

TEST_F(Tasks, AnswersHaveTheirDigits) {
  for (const char* task : kQuestionTasks) {
    const std::size_t num_digits = std::string(task) == "lines" ? 5 : 7;
    for (std::int64_t index = 0; index < 20; ++index) {
      for (const Turn& turn : make_document(task, options(1024), index).turns) {
        const std::string digits = num_digits == 5 ? turn.answer : turn.answer.substr(1);
        EXPECT_EQ(digits.size(), num_digits);
        EXPECT_EQ(digits.find_first_not_of("0123456789"), std::string::npos);
        EXPECT_NE(digits[0], '0');
      }
    }
  }
}

TEST_F(Tasks, TheFirstOfSeveralQuestionsIsNotScored) {
  for (const char* task : kQuestionTasks) {
    const Document document = make_document(task, options(1024), 0);
    for (std::size_t i = 0; i < document.turns.size(); ++i)
      EXPECT_EQ(document.turns[i].scored, i > 0);
    TaskOptions one = options(1024);
    one.num_questions = 1;
    EXPECT_TRUE(make_document(task, one, 0).turns.at(0).scored);
  }
}

// Kolmogorov's distance of 800 depths to the uniform distribution: beyond 1.95 / sqrt(800)
// once in a thousand times, and the seeds are fixed.
TEST_F(Tasks, DepthsAreUniform) {
  for (const char* task : kQuestionTasks) {
    std::vector<double> depths;
    for (std::int64_t index = 0; index < 100; ++index) {
      const Document document = make_document(task, options(2048, 3), index);
      for (const Turn& turn : document.turns) {
        depths.push_back(static_cast<double>(document.prompt.find(fact_of(task, turn))) /
                         static_cast<double>(document.prompt.size()));
      }
    }
    std::sort(depths.begin(), depths.end());
    double distance = 0;
    for (std::size_t i = 0; i < depths.size(); ++i) {
      distance = std::max(distance, std::abs(depths[i] - static_cast<double>(i) / depths.size()));
    }
    EXPECT_LT(distance, 0.069) << task;
  }
}

TEST_F(Tasks, NeedlesHideInProseAndInCode) {
  int prose = 0, code = 0;
  for (std::int64_t index = 0; index < 40; ++index) {
    const Document document = make_document("niah", options(1024), index);
    (count_in(document.prompt, "value = step(") > 0 ? code : prose) += 1;
  }
  EXPECT_GT(prose, 8);
  EXPECT_GT(code, 8);
  TaskOptions only_code = options(1024);
  only_code.prose = nullptr;
  for (std::int64_t index = 0; index < 10; ++index) {
    EXPECT_GT(count_in(make_document("niah", only_code, index).prompt, "value = step("), 10u);
  }
}

TEST_F(Tasks, NeedleHaystackRepeatsWhenItIsShort) {
  const Haystack tiny("one line\nanother line\n", "tiny");
  TaskOptions o = options(2048);
  o.prose = &tiny;
  o.code = nullptr;
  const Document document = make_document("niah", o, 0);
  EXPECT_GT(count_in(document.prompt, "another line\n"), 100u);
}

TEST_F(Tasks, PplIsAWindowOfItsText) {
  const std::string twice = toy_prose() + toy_prose();
  for (std::int64_t index = 0; index < 10; ++index) {
    const Document document = make_document("ppl", options(2048), index);
    EXPECT_TRUE(document.turns.empty());
    EXPECT_NE(twice.find(document.prompt), std::string::npos);
    EXPECT_EQ(document.loss_from, 1024);
  }
  EXPECT_EQ(make_document("ppl", options(700), 0).loss_from, 350);
  const TokenizedDocument tokens =
      tokenize_document(make_document("ppl", options(2048), 0), toy_encode);
  EXPECT_EQ(tokens.is_answer[1023], 0);
  EXPECT_EQ(tokens.is_answer[1024], 1);
  EXPECT_EQ(tokens.is_scored.back(), 1);
  EXPECT_TRUE(tokens.answers.empty());
}

TEST_F(Tasks, TimeIsLinear) {
  std::int64_t measured_bytes = 0;
  TaskOptions o = options(200'000);
  o.count_tokens = [&](std::string_view text) {
    measured_bytes += static_cast<std::int64_t>(text.size());
    return toy_count(text);
  };
  for (const TaskInfo& task : tasks()) {
    if (std::string(task.name).starts_with("ppl")) continue;  // the toy texts are too short
    measured_bytes = 0;
    const auto size = static_cast<std::int64_t>(whole_text(make_document(task.name, o, 0)).size());
    EXPECT_LT(measured_bytes, 8 * size) << task.name;
  }
}

TEST_F(Tasks, UsageErrorsSayWhatToDo) {
  EXPECT_EQ(
      usage_error("liens", options(2048)),
      "task: expected one of lines, niah, noise, niah-single-1, niah-single-2, niah-single-3, "
      "niah-multikey-1, niah-multikey-2, niah-multikey-3, niah-multivalue, "
      "niah-multiquery, vt, vt-2, cwe, fwe, mrcr-2, mrcr-4, copy, ppl, ppl-code, got "
      "'liens'");
  EXPECT_NE(usage_error("lines", options(50)).find("length: expected at least "),
            std::string::npos);
  EXPECT_NE(usage_error("lines", options(0)).find("at least 2 tokens"), std::string::npos);
  EXPECT_NE(usage_error("niah", options(-5)).find("at least 2 tokens"), std::string::npos);
  TaskOptions o = options(2048);
  o.prose = o.code = nullptr;
  EXPECT_NE(usage_error("niah", o).find("give a prose or code file"), std::string::npos);
  EXPECT_NE(usage_error("ppl", o).find("give a prose or code file"), std::string::npos);
  EXPECT_NE(usage_error("ppl-code", o).find("give a prose or code file"), std::string::npos);
  EXPECT_EQ(usage_error("noise", o), "no error");
  o.num_questions = 0;
  EXPECT_NE(usage_error("noise", o).find("1 to 1000"), std::string::npos);
  o.num_questions = 500;
  EXPECT_NE(usage_error("noise", o).find("for 500 questions"), std::string::npos);
  const Haystack tiny("one line\nanother line\n", "tiny");
  o = options(2048);
  o.prose = &tiny;
  EXPECT_NE(usage_error("ppl", o).find("a text of at least 2048 tokens"), std::string::npos);
}

TEST_F(Tasks, EveryLengthFromTheSmallestWorks) {
  for (const char* task : kQuestionTasks) {
    std::int64_t smallest = 0;
    for (std::int64_t length = 2; length < 800; ++length) {
      const bool works = usage_error(task, options(length)) == "no error";
      if (works && smallest == 0) smallest = length;
      EXPECT_EQ(works, smallest != 0) << task << " " << length;
    }
    EXPECT_GT(smallest, 100) << task;
    EXPECT_LT(smallest, 600) << task;
  }
}

TEST(Haystack, PiecesAreTheText) {
  Random random(8);
  for (int trial = 0; trial < 200; ++trial) {
    std::string text;
    const std::int64_t size = 1 + random.below(3000);
    const char* parts[] = {"a",    "word ", ". ", "\n", "\xE4\xB8\xAD", "\xF0\x9F\x98\x80",
                           "\r\n", "longer"};
    const std::int64_t kinds = 1 + random.below(8);  // few kinds make lines without spaces
    while (static_cast<std::int64_t>(text.size()) < size) text += parts[random.below(kinds)];
    const Haystack haystack(text, "text");
    std::string joined;
    for (std::size_t i = 0; i < haystack.num_pieces(); ++i) {
      const std::string_view piece = haystack.piece(i);
      EXPECT_FALSE(piece.empty());
      EXPECT_LE(piece.size(), 240u);
      EXPECT_NE(static_cast<unsigned char>(piece[0]) & 0xC0, 0x80);  // whole characters
      joined += piece;
    }
    EXPECT_EQ(joined, text);
  }
}

TEST(Haystack, RefusesWhatIsNoText) {
  for (const char* bad : {"", " \n\t\r\n", "ab\xFF", "\xC0\x80", "\xED\xA0\x80", "text \xE4\xB8"}) {
    try {
      Haystack haystack(bad, "prose.txt");
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadInput);
      EXPECT_EQ(error.text().place, "prose.txt");
    }
  }
  EXPECT_THROW(Haystack::from_file("/nonexistent/prose.txt"), Error);
}

TEST(TokenizedDocument, SpansAreTheAnswers) {
  const Document document{"Two numbers.\n", {{"First? ", "12 3", false}, {" Second? ", "45"}}};
  const TokenizedDocument tokens = tokenize_document(document, toy_encode);
  ASSERT_EQ(tokens.answers.size(), 2u);
  std::vector<std::uint8_t> expect_answer(tokens.ids.size()), expect_scored(tokens.ids.size());
  for (std::size_t i = 0; i < 2; ++i) {
    const AnswerSpan& span = tokens.answers[i];
    EXPECT_EQ(std::vector(tokens.ids.begin() + span.begin, tokens.ids.begin() + span.end),
              toy_encode(document.turns[i].answer));
    EXPECT_EQ(span.scored, i == 1);
    std::fill(expect_answer.begin() + span.begin, expect_answer.begin() + span.end, 1);
    if (span.scored)
      std::fill(expect_scored.begin() + span.begin, expect_scored.begin() + span.end, 1);
  }
  EXPECT_EQ(tokens.is_answer, expect_answer);
  EXPECT_EQ(tokens.is_scored, expect_scored);
  EXPECT_EQ(tokens.length(), count_document(document, toy_count));
}

TEST(TokenizedDocument, RefusesAnswersWithoutTokensOrContext) {
  const auto drop_all = [](std::string_view) { return std::vector<std::int64_t>(); };
  EXPECT_THROW(tokenize_document({"", {{"", "a"}}}, toy_encode), Error);
  EXPECT_THROW(tokenize_document({"p", {{"q", ""}}}, toy_encode), Error);
  EXPECT_THROW(tokenize_document({"p", {{"q", "a"}}}, drop_all), Error);
}

TEST(TokenizedDocument, EachRowPredictsTheNextToken) {
  EXPECT_EQ(marked_positions({0, 1, 0, 0, 2}), (std::vector<std::int64_t>{1, 4}));
  EXPECT_TRUE(marked_positions({}).empty());
  TokenizedDocument document;
  document.ids = {50, 51, 52, 53};
  const Targets targets = targets_at(document, {1, 3, 2});
  EXPECT_EQ(targets.rows, (std::vector<std::int64_t>{0, 2, 1}));
  EXPECT_EQ(targets.ids, (std::vector<std::int64_t>{51, 53, 52}));
  EXPECT_TRUE(targets_at(document, {}).rows.empty());
  EXPECT_ANY_THROW(targets_at(document, {0}));
  EXPECT_ANY_THROW(targets_at(document, {4}));
}

TEST(TokenizedDocument, PlainTextCountsFromTheSecondToken) {
  const TokenizedDocument tokens = tokenize_document({"a b c", {}}, toy_encode);
  EXPECT_EQ(tokens.is_answer, (std::vector<std::uint8_t>{0, 1, 1, 1, 1}));
  EXPECT_EQ(tokens.is_scored, tokens.is_answer);
}

TEST(TokenizedDocument, WindowsAreTheText) {
  std::string text;
  for (int i = 0; i < 50; ++i) text += "w.";
  const TokenizedDocument document = tokenize_document({text, {}, 10}, toy_encode);
  for (std::int64_t window_len = 2; window_len <= 101; ++window_len) {
    const auto windows = cut_into_windows(document, window_len);
    std::vector<std::int64_t> joined;
    std::int64_t begin = 0;
    for (const TokenizedDocument& window : windows) {
      EXPECT_LE(window.length(), window_len);
      EXPECT_GE(window.length(), 2);
      EXPECT_EQ(window.is_answer[0], 0);
      for (std::int64_t t = 1; t < window.length(); ++t) {
        EXPECT_EQ(window.is_answer[static_cast<std::size_t>(t)], begin + t >= 10);
      }
      joined.insert(joined.end(), window.ids.begin(), window.ids.end());
      begin += window.length();
    }
    EXPECT_GE(joined.size() + 1, document.ids.size());
    EXPECT_TRUE(std::equal(joined.begin(), joined.end(), document.ids.begin()));
  }
  const TokenizedDocument with_turns = tokenize_document({"a b", {{"q", "a"}}}, toy_encode);
  EXPECT_EQ(cut_into_windows(with_turns, 5).size(), 1u);
  EXPECT_THROW(cut_into_windows(with_turns, 4), Error);
}

}  // namespace
}  // namespace loza
