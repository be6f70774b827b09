// Lines of random words, each behind a name; a question repeats a name, the answer is its line.
#include <fmt/format.h>

#include "loza/tasks/hide.h"
#include "loza/tasks/registry.h"
#include "loza/tasks/words.h"

namespace loza {

Document make_copy(const TaskOptions& options, std::int64_t index) {
  constexpr int kNumWords = 16;
  Random random = document_random("copy", options.seed, index);
  UniqueNames names(random);
  const auto random_words = [&] {
    std::string words;
    for (int i = 0; i < kNumWords; ++i) {
      words += fmt::format(" {}", i % 2 == 0 ? random_noun(random) : random_adjective(random));
    }
    return words;
  };
  std::vector<Fact> facts;
  for (std::int64_t i = 0; i < options.num_questions; ++i) {
    const std::string name = names.next(), words = random_words();
    facts.push_back({fmt::format("{}:{}\n", name, words), {fmt::format("\n{}:", name), words}});
  }
  const auto other_line = [&] {
    const std::string name = names.next();
    return fmt::format("{}:{}\n", name, random_words());
  };
  return hide_facts("copy", options, "Below are lines to be repeated word for word.\n\n", facts,
                    other_line, random);
}

}  // namespace loza
