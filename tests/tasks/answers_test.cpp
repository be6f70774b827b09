// Every task's answers, found again from its text alone: by reading sentences, running
// assignments, counting words.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "loza/base/hash.h"
#include "loza/tasks/task.h"
#include "loza/tasks/tokenized.h"
#include "tests/tasks/task_fixture.h"

namespace loza {
namespace {

using Strings = std::vector<std::string>;

std::vector<std::smatch> all_matches(const std::string& text, const std::regex& pattern) {
  return {std::sregex_iterator(text.begin(), text.end(), pattern), std::sregex_iterator()};
}

std::string joined(const Strings& words) { return fmt::format(" {}", fmt::join(words, ", ")); }

Strings split_lines(const std::string& text) {
  Strings lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

// Documents of a task in words, and four times as long in bytes.
class Answers : public Tasks {
 protected:
  std::vector<Document> documents(const std::string& task, std::int64_t num_questions = 3) const {
    std::vector<Document> all;
    for (const std::int64_t length : {1200, 2500, 6000}) {
      for (const bool in_bytes : {false, true}) {
        for (std::int64_t index = 0; index < 4; ++index) {
          TaskOptions o = options(in_bytes ? 4 * length : length, 17);
          o.num_questions = num_questions;
          if (in_bytes)
            o.count_tokens = [](auto text) { return static_cast<std::int64_t>(text.size()); };
          all.push_back(make_document(task, o, index));
          EXPECT_LE(count_document(all.back(), o.count_tokens), o.length) << task;
        }
      }
    }
    return all;
  }
};

struct NeedleCase {
  const char* task;
  std::size_t keys, values;  // of a question
  std::size_t num_needles;   // with three questions; 0: the haystack is made of them
};
const NeedleCase kNeedleCases[] = {
    {"niah", 1, 1, 3},
    {"noise", 1, 1, 3},
    {"niah-single-1", 1, 1, 3},
    {"niah-single-2", 1, 1, 3},
    {"niah-single-3", 1, 1, 3},
    {"niah-multikey-1", 1, 1, 12},
    {"niah-multikey-2", 1, 1, 0},
    {"niah-multikey-3", 1, 1, 0},
    {"niah-multivalue", 1, 4, 12},
    {"niah-multiquery", 4, 1, 12},
};

const char* const kName = "[a-z]+-[a-z]+";
const char* const kUuid = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}";
const char* const kNumber = "[1-9][0-9]{6}";

// What a wording's sentence looks like; key_first: the key stands before the value.
struct Sentence {
  const char* form;
  bool key_first;
};
const Sentence kSentences[] = {
    {"One of the special magic (?:number|uuid)s for ({}) is: ({})\\.\n", true},
    {"Remember that the secret code of ({}) is ({})\\.\n", true},
    {"Registrar's note: ({}) was assigned the (?:number|uuid) ({})\\.\n", true},
    {"Voucher ({1}) belongs to ({0})\\.\n", false},
};

TEST_F(Answers, OfNeedlesAreInTheirSentencesAlone) {
  int cases = 0;
  for (const NeedleCase& c : kNeedleCases) {
    const std::string task = c.task;
    const char* key = task == "niah-multikey-3" ? kUuid : kName;
    const char* value = key == kUuid || task == "niah-single-3" ? kUuid : kNumber;
    for (std::size_t wording = 0; wording < 4; ++wording) {
      const auto all = documents(fmt::format("{}:{}", task, wording));
      const std::regex pattern(fmt::format(fmt::runtime(kSentences[wording].form), key, value));
      for (const Document& document : all) {
        std::map<std::string, Strings> values;
        std::size_t num_needles = 0;
        for (const std::smatch& match : all_matches(document.prompt, pattern)) {
          const bool key_first = kSentences[wording].key_first;
          values[match[key_first ? 1 : 2]].push_back(match[key_first ? 2 : 1]);
          ++num_needles;
        }
        if (c.num_needles > 0) {
          EXPECT_EQ(num_needles, c.num_needles) << task;
        } else {
          EXPECT_GE(num_needles, 8u) << task;
        }
        ASSERT_EQ(document.turns.size(), 3u);
        for (const Turn& turn : document.turns) {
          Strings expected;
          const auto keys = all_matches(turn.question, std::regex(key));
          EXPECT_EQ(keys.size(), c.keys) << turn.question;
          for (const std::smatch& match : keys) {
            EXPECT_EQ(values[match[0]].size(), c.values) << match[0];
            for (const std::string& v : values[match[0]]) {
              EXPECT_EQ(count_in(document.prompt, v), 1u);
              expected.push_back(v);
            }
          }
          EXPECT_EQ(turn.answer, joined(expected)) << turn.question;
          ++cases;
        }
      }
    }
  }
  EXPECT_EQ(cases, 10 * 4 * 24 * 3);
}

TEST_F(Answers, AreTheSameInEveryWording) {
  for (const NeedleCase& c : kNeedleCases) {
    const Document plain = make_document(c.task, few_questions(2048), 5);
    std::set<std::string> questions, prompts;
    for (int wording = 0; wording < 4; ++wording) {
      const Document other =
          make_document(fmt::format("{}:{}", c.task, wording), few_questions(2048), 5);
      ASSERT_EQ(other.turns.size(), plain.turns.size());
      for (std::size_t i = 0; i < other.turns.size(); ++i) {
        EXPECT_EQ(other.turns[i].answer, plain.turns[i].answer);
        questions.insert(other.turns[i].question);
      }
      EXPECT_EQ(wording == 0, whole_text(other) == whole_text(plain));
    }
    EXPECT_EQ(questions.size(), 8u) << c.task;
  }
}

// Variables and values after the prompt's assignments, run one after the other.
struct Program {
  std::map<std::string, std::string> values, refers_to;
  std::map<std::string, Strings> having;  // value -> its variables, in the order of assignment

  explicit Program(const std::string& prompt) {
    const std::regex assignment("^VAR (\\S+) = (VAR )?(\\S+)$");
    std::smatch match;
    for (const std::string& line : split_lines(prompt)) {
      if (!std::regex_match(line, match, assignment)) continue;
      const std::string variable = match[1], right = match[3];
      EXPECT_EQ(values.count(variable), 0u) << "assigned twice: " << variable;
      if (match[2].matched) {
        EXPECT_EQ(values.count(right), 1u) << "not yet assigned: " << right;
        refers_to[variable] = right;
      }
      values[variable] = match[2].matched ? values[right] : right;
      having[values[variable]].push_back(variable);
    }
  }
};

TEST_F(Answers, OfVariableTrackingAreTheChains) {
  for (const auto& [task, num_variables] :
       {std::pair("vt", 5u), std::pair("vt:1", 2u), std::pair("vt:7", 8u)}) {
    for (const Document& document : documents(task)) {
      const Program program(document.prompt);
      EXPECT_EQ(program.values.size(), 3 * num_variables);
      for (const Turn& turn : document.turns) {
        const std::string value = all_matches(turn.question, std::regex("[0-9]{5}")).at(0)[0];
        ASSERT_EQ(program.having.count(value), 1u);
        EXPECT_EQ(program.having.at(value).size(), num_variables);
        EXPECT_EQ(turn.answer, joined(program.having.at(value)));
      }
    }
  }
}

TEST_F(Answers, OfTwoHopsAreBehindOneReference) {
  for (const std::string task : {"vt-2", "vt-2:1"}) {
    const bool is_spelt = task == "vt-2:1";
    const std::regex question(is_spelt ? "VAR (\\S+) =$" : "VAR (\\S+) is:");
    for (const Document& document : documents(task)) {
      const Program program(document.prompt);
      EXPECT_GT(program.values.size(), 50u);
      EXPECT_GT(program.refers_to.size(), program.values.size() / 4);
      for (const Turn& turn : document.turns) {
        const std::string variable = all_matches(turn.question, question).at(0)[1];
        ASSERT_EQ(program.refers_to.count(variable), 1u) << variable;
        const std::string target = program.refers_to.at(variable);
        EXPECT_EQ(program.refers_to.count(target), 0u);
        const std::string value = " " + program.values.at(variable);
        EXPECT_EQ(turn.answer, is_spelt ? " VAR " + target + " =" + value : value);
        EXPECT_EQ(count_in(document.prompt, value + "\n"), 1u);
      }
    }
  }
}

// Words and how often they come, the most frequent ones first.
std::vector<std::pair<std::string, int>> frequencies(const Strings& words) {
  std::map<std::string, int> counts;
  for (const std::string& word : words) ++counts[word];
  std::vector<std::pair<std::string, int>> sorted(counts.begin(), counts.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return sorted;
}

TEST_F(Answers, OfCommonWordsAreTheTenMostFrequent) {
  std::set<int> common_counts;
  for (const Document& document : documents("cwe")) {
    ASSERT_EQ(document.turns.size(), 1u);
    EXPECT_TRUE(document.turns[0].scored);
    const std::string list = document.prompt.substr(document.prompt.find("\n\n") + 2);
    const auto counts = frequencies(split_lines(list));
    ASSERT_GT(counts.size(), 11u);
    Strings common;
    for (std::size_t i = 0; i < 10; ++i) {
      EXPECT_EQ(counts[i].second, counts[0].second);
      common.push_back(counts[i].first);
    }
    EXPECT_LE(counts[10].second, counts[0].second / 10);
    std::sort(common.begin(), common.end());
    EXPECT_EQ(document.turns[0].answer, joined(common));
    common_counts.insert(counts[0].second);
  }
  EXPECT_EQ(common_counts, (std::set<int>{10, 30}));
}

TEST_F(Answers, OfFrequentWordsAreTheThreeMostFrequentInOrder) {
  TaskOptions o = options(150, 3);
  o.count_tokens = toy_count;
  std::vector<Document> all = documents("fwe");
  while (usage_error("fwe", o) != "no error") ++o.length;
  EXPECT_LT(o.length, 400);
  for (std::int64_t index = 0; index < 200; ++index) {  // short ones, where chance could win
    all.push_back(make_document("fwe", o, index));
  }
  for (const Document& document : all) {
    Strings words;
    const std::string text = document.prompt.substr(document.prompt.find("\n\n") + 2);
    for (const std::smatch& match : all_matches(text, std::regex("[a-z]+"))) {
      words.push_back(match[0]);
    }
    const auto counts = frequencies(words);
    ASSERT_GT(counts.size(), 3u);
    for (std::size_t i = 0; i < 3; ++i) EXPECT_GT(counts[i].second, counts[i + 1].second);
    EXPECT_EQ(document.turns.at(0).answer,
              joined({counts[0].first, counts[1].first, counts[2].first}));
    EXPECT_GT(count_in(text, "..."), words.size() / 2);
  }
}

TEST_F(Answers, OfRepeatedRequestsAreTheReplyAskedFor) {
  const std::map<std::string, std::size_t> ordinals = {
      {"first", 0}, {"second", 1}, {"third", 2}, {"fourth", 3}};
  const std::regex round("User: Write a (.*)\\.\nAssistant: (.*)\n");
  const std::regex question(
      "User: Write (\\S{6}) and then, word for word, the (\\S+) (.*)\\.\nAssistant:");
  for (const std::size_t num_alike : {2u, 4u}) {
    std::set<std::size_t> asked;
    for (const Document& document : documents(fmt::format("mrcr-{}", num_alike))) {
      std::map<std::string, Strings> replies;
      std::set<std::string> all_replies;
      for (const std::smatch& match : all_matches(document.prompt, round)) {
        replies[match[1]].push_back(match[2]);
        EXPECT_TRUE(all_replies.insert(match[2]).second);
      }
      EXPECT_GT(replies.size(), 3u);  // others beside those asked for
      for (const Turn& turn : document.turns) {
        const std::smatch match = all_matches(turn.question, question).at(0);
        const std::size_t i = ordinals.at(match[2]);
        ASSERT_EQ(replies[match[3]].size(), num_alike) << match[3];
        EXPECT_EQ(turn.answer, fmt::format(" {} {}", match.str(1), replies[match[3]][i]));
        EXPECT_EQ(count_in(document.prompt, match.str(1)), 0u);
        asked.insert(i);
      }
    }
    EXPECT_EQ(asked.size(), num_alike);
  }
}

TEST_F(Answers, OfCopyAreTheNamedLines) {
  for (const Document& document : documents("copy")) {
    std::map<std::string, Strings> lines;
    for (const std::smatch& match :
         all_matches(document.prompt, std::regex("\n([a-z]+-[a-z]+):((?: [a-z]+){16})(?=\n)"))) {
      lines[match[1]].push_back(match[2]);
    }
    EXPECT_GT(lines.size(), 20u);
    for (const Turn& turn : document.turns) {
      const std::string name = turn.question.substr(1, turn.question.size() - 2);
      EXPECT_EQ(turn.question, "\n" + name + ":");
      EXPECT_EQ(lines[name], Strings{turn.answer});
    }
  }
}

// Where its sentences stand doesn't tell a question's from the others: the mean of 400 uniform
// depths is within 0.07 of a half but once in a million times.
TEST_F(Answers, StandAnywhere) {
  for (const char* task : {"niah-multikey-1", "niah-multikey-2", "vt-2", "copy"}) {
    double sum = 0;
    for (std::int64_t index = 0; index < 50; ++index) {
      const Document document = make_document(task, options(2500, 4), index);
      for (const Turn& turn : document.turns) {
        sum += static_cast<double>(document.prompt.find(turn.answer)) /
               static_cast<double>(document.prompt.size());
      }
    }
    // A reference's target stands before it: the lower of two depths.
    EXPECT_NEAR(sum / 400, task == std::string("vt-2") ? 1.0 / 3 : 0.5, 0.07) << task;
  }
}

TEST_F(Answers, OnlyTheFirstOfSeveralIsNotScored) {
  for (const TaskInfo& task : tasks()) {
    const Document document = make_document(task.name, few_questions(2048), 0);
    for (std::size_t i = 0; i < document.turns.size(); ++i) {
      EXPECT_EQ(document.turns[i].scored, i > 0 || document.turns.size() == 1) << task.name;
    }
  }
}

TEST_F(Answers, TextIsTheSameEverywhere) {
  const auto hash = [&](const char* task) {
    return sha256_hex(whole_text(make_document(task, few_questions(1024, 42), 3))).substr(0, 16);
  };
  EXPECT_EQ(hash("niah:1"), "adf923cdf258e9ee");
  EXPECT_EQ(hash("niah-single-1"), "53e1ebf83e5a14e6");
  EXPECT_EQ(hash("niah-single-2"), "e660d6a97c9d4dc9");
  EXPECT_EQ(hash("niah-single-3"), "1a6e5bb1411597aa");
  EXPECT_EQ(hash("niah-multikey-1"), "fc545c9c40956cbd");
  EXPECT_EQ(hash("niah-multikey-2"), "56a979e4b1a42979");
  EXPECT_EQ(hash("niah-multikey-3"), "1c5ef9d5129fb6e2");
  EXPECT_EQ(hash("niah-multivalue"), "76dc0e1ab4f2e154");
  EXPECT_EQ(hash("niah-multiquery"), "3d363d3f682b0451");
  EXPECT_EQ(hash("vt"), "a12af8ed8f7f26cc");
  EXPECT_EQ(hash("vt-2"), "90eb44fecb8b0e31");
  EXPECT_EQ(hash("cwe"), "66dc7c20f8eb04e3");
  EXPECT_EQ(hash("fwe"), "b19f7d5d482a338a");
  EXPECT_EQ(hash("mrcr-2"), "ccd0545417e7c4c7");
  EXPECT_EQ(hash("mrcr-4"), "0eb4b422daa7a7f8");
  EXPECT_EQ(hash("copy"), "6e7afa6f03b64bcb");
}

TEST_F(Answers, UsageErrorsSayWhatToDo) {
  const auto has = [&](const std::string& task, const TaskOptions& o, const char* what) {
    EXPECT_NE(usage_error(task, o).find(what), std::string::npos) << usage_error(task, o);
  };
  TaskOptions bare = few_questions(2048);
  bare.prose = nullptr;
  for (const char* task : {"niah-single-2", "niah-single-3", "niah-multikey-1", "niah-multivalue",
                           "niah-multiquery"}) {
    has(task, bare, "give a prose file");
  }
  EXPECT_EQ(usage_error("niah", bare), "no error");  // it takes code as well
  bare.code = nullptr;
  has("niah", bare, "give a prose or code file");
  for (const char* task : {"niah-single-1", "niah-multikey-2", "niah-multikey-3", "vt", "vt-2",
                           "cwe", "fwe", "mrcr-2", "mrcr-4", "copy"}) {
    EXPECT_EQ(usage_error(task, bare), "no error") << task;
  }
  for (const TaskInfo& task : tasks()) {
    if (std::string(task.name).starts_with("ppl")) continue;
    has(task.name, few_questions(40), "choose a larger length");
  }
  for (const char* name : {"niah:4", "niah:-1", "niah:", "niah:x", "niah:1x", "niah: 1",
                           "niah:99999999999999999999", "niah:1:2"}) {
    has(name, few_questions(2048), "expected wording from 0 to 3");
    EXPECT_NE(find_task(name), nullptr);
  }
  has("vt:0", few_questions(2048), "expected hops from 1 to 16");
  has("vt:17", few_questions(2048), "expected hops from 1 to 16");
  has("vt-2:2", few_questions(2048), "expected wording from 0 to 1");
  for (const char* name : {"lines:1", "ppl:0", ":1", "", "nia:1", "niah-single-4"}) {
    has(name, few_questions(2048), "expected one of lines, ");
    EXPECT_EQ(find_task(name), nullptr) << name;
  }
  TaskOptions wrong = few_questions(2048);
  wrong.wording = 4;
  has("noise", wrong, "wording from 0 to 3");
  wrong = few_questions(2048);
  wrong.spread_to = -1;
  has("noise", wrong, "positions to spread to");
}

TEST_F(Answers, EveryLengthFromTheSmallestWorks) {
  for (const char* task : {"niah-multivalue", "niah-multiquery", "niah-multikey-3", "vt", "vt-2",
                           "cwe", "fwe", "mrcr-4", "copy"}) {
    bool worked = false;
    for (std::int64_t length = 2; length < 900; length += 3) {
      const bool works = usage_error(task, few_questions(length)) == "no error";
      EXPECT_TRUE(works || !worked) << task << " " << length;
      worked = works;
    }
    EXPECT_TRUE(worked) << task;
  }
  for (std::int64_t length = 900; length < 4000; length += 25) {
    EXPECT_EQ(usage_error("cwe", few_questions(length)), "no error") << length;
  }
}

}  // namespace
}  // namespace loza
