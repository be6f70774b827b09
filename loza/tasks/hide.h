#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "loza/base/random.h"
#include "loza/tasks/task.h"

namespace loza {

// One sentence that answers one question, and the question with its answer.
struct Fact {
  std::string sentence;
  Turn turn;
};

// A sentence and its place in the filler.
struct Hidden {
  std::string sentence;
  double depth = 0;  // in [0, 1)
};

// Gives each sentence a uniformly random depth. Of every `ordered_len` consecutive ones (a
// chain, the values of a key) the depths are sorted: they come in their order.
// REQUIRES: whole groups.
std::vector<Hidden> scatter(std::vector<std::string> sentences, std::size_t ordered_len,
                            Random& random);

// The next piece of text in which facts are hidden; empty when there is no more.
using NextFiller = std::function<std::string()>;

// The document: opening, filler with every sentence at its depth of it (between two pieces;
// those of one place in their order), then the turns. Takes as much filler as options.length
// allows, and spreads the positions where the options say so. All turns are scored but the
// first of several. `task` begins error lines.
// Throws Error(kUsage) when the length is too small for sentences and turns alone, or the
// filler ends before the length is reached.
Document hide(std::string_view task, const TaskOptions& options, const std::string& opening,
              const std::vector<Hidden>& hidden, std::vector<Turn> turns,
              const NextFiller& next_filler, Random& random);

// The same of facts, each at a random depth, with their turns in their order.
Document hide_facts(std::string_view task, const TaskOptions& options, const std::string& opening,
                    const std::vector<Fact>& facts, const NextFiller& next_filler, Random& random);

}  // namespace loza
