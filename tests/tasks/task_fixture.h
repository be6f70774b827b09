#pragma once

#include <gtest/gtest.h>

#include <cctype>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "loza/base/error.h"
#include "loza/base/random.h"
#include "loza/tasks/haystack.h"
#include "loza/tasks/task.h"

namespace loza {

// A stand-in tokenizer whose words and punctuation are one token each and digits too; a
// newline joins the white space after it, so that seams between pieces matter.
inline std::vector<std::int64_t> toy_encode(std::string_view text) {
  std::vector<std::int64_t> ids;
  const auto is_letter = [](char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; };
  for (std::size_t i = 0; i < text.size();) {
    std::size_t end = i + 1;
    if (is_letter(text[i])) {
      while (end < text.size() && is_letter(text[end])) ++end;
    } else if (text[i] == '\n' || text[i] == ' ') {
      while (end < text.size() && (text[end] == ' ' || text[end] == '\n')) ++end;
    }
    std::int64_t id = 7;
    for (std::size_t k = i; k < end; ++k)
      id = (id * 257 + static_cast<unsigned char>(text[k])) % 1000003;
    ids.push_back(id);
    i = end;
  }
  return ids;
}

inline std::int64_t toy_count(std::string_view text) {
  return static_cast<std::int64_t>(toy_encode(text).size());
}

inline std::string toy_prose() {
  Random random(5);
  const char* words[] = {"the",    "river", "runs",  "over", "old",
                         "stones", "and",   "sings", "of",   "rain"};
  std::string text;
  for (int line = 0; line < 4000; ++line) {
    for (int i = 0; i < 11; ++i) text += std::string(words[random.below(10)]) + " ";
    text += "\n";
  }
  return text;
}

inline std::string toy_code() {
  Random random(6);
  std::string text;
  for (int line = 0; line < 4000; ++line) {
    text += std::string(static_cast<std::size_t>(4 * random.below(4)), ' ') +
            "value = step(value, " + std::to_string(random.below(1000)) + ")\n";
  }
  return text;
}

// Options with the toy tokenizer and texts.
class Tasks : public ::testing::Test {
 protected:
  TaskOptions options(std::int64_t length, std::uint64_t seed = 0) const {
    TaskOptions options;
    options.length = length;
    options.seed = seed;
    options.count_tokens = toy_count;
    options.prose = &prose_;
    options.code = &code_;
    return options;
  }

  // Few enough for short documents of every task.
  TaskOptions few_questions(std::int64_t length, std::uint64_t seed = 0) const {
    TaskOptions few = options(length, seed);
    few.num_questions = 2;
    return few;
  }

  Haystack prose_{toy_prose(), "prose"};
  Haystack code_{toy_code(), "code"};
};

inline std::string whole_text(const Document& document) {
  std::string text = document.prompt;
  for (const Turn& turn : document.turns) text += turn.question + turn.answer;
  return text;
}

inline std::size_t count_in(std::string_view text, std::string_view what) {
  std::size_t n = 0;
  for (std::size_t at = text.find(what); at != text.npos; at = text.find(what, at + 1)) ++n;
  return n;
}

// What a usage error says, or "no error".
inline std::string usage_error(const std::string& task, const TaskOptions& options) {
  try {
    make_document(task, options, 0);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
    return error.what();
  }
  return "no error";
}

}  // namespace loza
