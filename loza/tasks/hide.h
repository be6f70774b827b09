#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "loza/base/random.h"
#include "loza/tasks/task.h"

namespace loza {

// What a question asks for: the sentence that says it, and the question with its answer.
struct Fact {
  std::string sentence;
  Turn turn;
};

// The next piece of text in which facts are hidden; empty when there is no more.
using NextFiller = std::function<std::string()>;

// The document: opening, filler with every fact's sentence at a uniformly random depth of
// it (between two pieces), then the facts' turns in their order. Takes as much filler as
// options.length allows. `task` begins error lines.
// Throws Error(kUsage) when the length is too small for the facts alone, or the filler
// ends before the length is reached.
Document hide_facts(std::string_view task, const TaskOptions& options, const std::string& opening,
                    const std::vector<Fact>& facts, const NextFiller& next_filler, Random& random);

// Says which turns are scored: all of them but the first of several.
void mark_scored(std::vector<Fact>& facts);

}  // namespace loza
