// RULER's variable tracking: variables that take their value from another variable.
#include <fmt/format.h>

#include <utility>

#include "loza/tasks/hide.h"
#include "loza/tasks/registry.h"
#include "loza/tasks/words.h"

namespace loza {
namespace {

std::string assignment(const std::string& variable, const std::string& value) {
  return fmt::format("VAR {} = {}\n", variable, value);
}

std::string reference(const std::string& variable, const std::string& other) {
  return assignment(variable, "VAR " + other);
}

// "\n", or what ends the answer before.
const char* turn_begin(const std::vector<Turn>& turns) { return turns.empty() ? "\n" : ".\n"; }

}  // namespace

// Chains of variables in noise; a question asks for all that have a value.
Document make_vt(const TaskOptions& options, std::int64_t index) {
  Random random = document_random("vt", options.seed, index);
  UniqueLetters variables(random, 'A', 5);
  UniqueNumbers values(random, 5);
  std::vector<std::string> sentences;
  std::vector<Turn> turns;
  for (std::int64_t i = 0; i < options.num_questions; ++i) {
    const std::string value = values.next();
    std::vector<std::string> chain = {variables.next()};
    sentences.push_back(assignment(chain[0], value));
    for (std::int64_t hop = 0; hop < options.num_hops; ++hop) {
      const std::string variable = variables.next();
      sentences.push_back(reference(variable, chain.back()));
      chain.push_back(variable);
    }
    turns.push_back({fmt::format("{}The variables that are assigned the value {}, in the order "
                                 "of their assignments, are:",
                                 turn_begin(turns), value),
                     fmt::format(" {}", fmt::join(chain, ", "))});
  }
  const auto chain_len = static_cast<std::size_t>(options.num_hops + 1);
  const auto hidden = scatter(std::move(sentences), chain_len, random);
  return hide(
      "vt", options,
      "Memorize and track the chains of variable assignments hidden in the following "
      "text.\n\n",
      hidden, std::move(turns), [] { return std::string(kNoise); }, random);
}

// Nothing but assignments, half of them references; a question asks for the value behind one. In
// wording 1 the answer spells out both hops.
Document make_vt_2(const TaskOptions& options, std::int64_t index) {
  Random random = document_random("vt-2", options.seed, index);
  UniqueNames variables(random);
  UniqueNumbers values(random, 5);
  std::vector<std::string> sentences;
  std::vector<Turn> turns;
  for (std::int64_t i = 0; i < options.num_questions; ++i) {
    const std::string target = variables.next(), pointer = variables.next(), value = values.next();
    sentences.push_back(assignment(target, value));
    sentences.push_back(reference(pointer, target));
    if (options.wording == 0) {
      turns.push_back(
          {fmt::format("{}The value of VAR {} is:", turn_begin(turns), pointer), " " + value});
    } else {
      turns.push_back({fmt::format("{}VAR {} =", turn_begin(turns), pointer),
                       fmt::format(" VAR {} = {}", target, value)});
    }
  }
  std::vector<std::string> assigned;  // by the filler, to be referred to by later lines of it
  const auto other_line = [&]() -> std::string {
    const std::string variable = variables.next();
    if (assigned.empty() || random.below(2) == 0) {
      assigned.push_back(variable);
      return assignment(variable, values.next());
    }
    const std::int64_t i = random.below(static_cast<std::int64_t>(assigned.size()));
    return reference(variable, assigned[static_cast<std::size_t>(i)]);
  };
  const auto hidden = scatter(std::move(sentences), 2, random);
  return hide("vt-2", options,
              "Below are assignments of variables. Some take their value from another one.\n\n",
              hidden, std::move(turns), other_line, random);
}

}  // namespace loza
