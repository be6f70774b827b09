// LongEval's lines, with several questions a document: many lines that look alike, each a
// name and a number.
#include <fmt/format.h>

#include "loza/tasks/hide.h"
#include "loza/tasks/registry.h"
#include "loza/tasks/words.h"

namespace loza {

Document make_lines(const TaskOptions& options, std::int64_t index) {
  Random random = document_random("lines", options.seed, index);
  UniqueNames names(random);
  UniqueNumbers numbers(random, 5);
  const auto line = [](const std::string& name, const std::string& number) {
    return fmt::format("line {}: REGISTER_CONTENT is <{}>\n", name, number);
  };

  std::vector<Fact> facts;
  for (std::int64_t i = 0; i < options.num_questions; ++i) {
    const std::string name = names.next(), number = numbers.next();
    const char* separator = i == 0 ? "\n" : ">\n";
    facts.push_back(
        {line(name, number), {fmt::format("{}What is in line {}? <", separator, name), number}});
  }
  const auto other_line = [&] { return line(names.next(), numbers.next()); };
  return hide_facts("lines", options, "Below is a record of lines. Remember what is in each.\n\n",
                    facts, other_line, random);
}

}  // namespace loza
