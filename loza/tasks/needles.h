#pragma once

#include <vector>

#include "loza/tasks/hide.h"

namespace loza {

// RULER's needles (arXiv 2404.06654): sentences that give a seven-digit number to a name,
// each with its question. The answers carry the space that stands before the number, as it
// stands in the sentence.
std::vector<Fact> make_needles(std::int64_t num_needles, Random& random);

// What a document with needles begins with.
extern const char* const kNeedlesOpening;

}  // namespace loza
