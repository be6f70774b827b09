// RULER's needles in its noise: the same few sentences over and over.
#include "loza/tasks/needles.h"
#include "loza/tasks/registry.h"

namespace loza {

Document make_noise(const TaskOptions& options, std::int64_t index) {
  Random random = document_random("noise", options.seed, index);
  const std::vector<Fact> needles = make_needles(options.num_questions, random);
  const auto noise = [] {
    return "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back "
           "again.\n";
  };
  return hide_facts("noise", options, kNeedlesOpening, needles, noise, random);
}

}  // namespace loza
