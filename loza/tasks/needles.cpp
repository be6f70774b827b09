#include "loza/tasks/needles.h"

#include <fmt/format.h>

#include "loza/tasks/words.h"

namespace loza {

const char* const kNeedlesOpening =
    "Some special magic numbers are hidden within the following text. Make sure to memorize "
    "them. I will quiz you about the numbers afterwards.\n\n";

std::vector<Fact> make_needles(std::int64_t num_needles, Random& random) {
  UniqueNames names(random);
  UniqueNumbers numbers(random, 7);
  std::vector<Fact> needles;
  for (std::int64_t i = 0; i < num_needles; ++i) {
    const std::string name = names.next(), number = numbers.next();
    const char* separator = i == 0 ? "\n" : ".\n";
    needles.push_back(
        {fmt::format("One of the special magic numbers for {} is: {}.\n", name, number),
         {fmt::format("{}The special magic number for {} mentioned in the text is:", separator,
                      name),
          " " + number}});
  }
  mark_scored(needles);
  return needles;
}

}  // namespace loza
