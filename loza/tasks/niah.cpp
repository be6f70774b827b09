// RULER's needles in prose or code.
#include "loza/base/error.h"
#include "loza/tasks/haystack.h"
#include "loza/tasks/needles.h"
#include "loza/tasks/registry.h"

namespace loza {
namespace {

// One of those given, by chance when both are.
const Haystack& choose_haystack(const TaskOptions& options, Random& random) {
  const bool prefer_code = random.below(2) == 1;
  const Haystack* chosen = prefer_code ? options.code : options.prose;
  if (chosen == nullptr) chosen = prefer_code ? options.prose : options.code;
  if (chosen == nullptr) {
    throw_usage("task 'niah'", "a text to hide needles in", "none", "give a prose or code file");
  }
  return *chosen;
}

}  // namespace

Document make_niah(const TaskOptions& options, std::int64_t index) {
  Random random = document_random("niah", options.seed, index);
  const Haystack& haystack = choose_haystack(options, random);
  const std::vector<Fact> needles = make_needles(options.num_questions, random);
  const auto num_pieces = static_cast<std::int64_t>(haystack.num_pieces());
  std::int64_t piece_idx = random.below(num_pieces);
  const auto next_piece = [&] {  // begins again where the text ends, as RULER does
    const auto piece = haystack.piece(static_cast<std::size_t>(piece_idx));
    piece_idx = (piece_idx + 1) % num_pieces;
    return std::string(piece);
  };
  return hide_facts("niah", options, kNeedlesOpening, needles, next_piece, random);
}

}  // namespace loza
