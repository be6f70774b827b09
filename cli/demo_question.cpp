#include "cli/demo_question.h"

#include <algorithm>
#include <cstdint>
#include <optional>

namespace loza::cli {

Asked choose_question(const std::vector<EvalCase>& cases, const SubjectScores& dense) {
  std::optional<Asked> any, right;
  std::int64_t any_length = 0, right_length = 0;
  for (std::size_t c = 0; c < cases.size(); ++c) {
    std::size_t unit = 0;
    const std::vector<Turn>& turns = cases[c].document.turns;
    for (std::size_t t = 0; t < turns.size(); ++t) {
      if (!turns[t].scored) continue;
      const bool is_right = dense.scores[c].units[unit++].exact;
      const std::int64_t length = cases[c].length;
      if (length > any_length) any = Asked{c, t}, any_length = length;
      if (is_right && length > right_length) right = Asked{c, t}, right_length = length;
    }
  }
  return right ? *right : any.value();
}

std::string trimmed(const std::string& text) {
  const char* const kSpaces = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(kSpaces);
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(kSpaces) - begin + 1);
}

std::string shown_question(const std::string& question) {
  return trimmed(
      question.substr(std::min(question.find_first_not_of(". \t\r\n"), question.size())));
}

bool begins_with_number(const std::string& text, const std::string& number) {
  if (text.rfind(number, 0) != 0) return false;
  return text.size() == number.size() || text[number.size()] < '0' || text[number.size()] > '9';
}

}  // namespace loza::cli
