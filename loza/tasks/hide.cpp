#include "loza/tasks/hide.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "loza/base/error.h"
#include "loza/tasks/tokenized.h"

namespace loza {
namespace {

// Filler with its length, measured piece by piece so that measuring stays linear. The sum
// may differ a little from the joined text's: tokens can span the seams.
struct Filler {
  std::vector<std::string> pieces;
  std::vector<std::int64_t> lens;
  std::int64_t total_len = 0;
  bool ended = false;

  // Adds pieces up to a total of `len` tokens. A piece that would exceed it waits for the
  // next call.
  void grow_to(std::int64_t len, const NextFiller& next, const CountTokens& count) {
    while (!ended) {
      if (waiting.empty()) {
        waiting = next();
        waiting_len = count(waiting);
        ended = waiting.empty();
      }
      if (ended || total_len + waiting_len > len) return;
      total_len += waiting_len;
      lens.push_back(waiting_len);
      pieces.push_back(std::move(waiting));
      waiting.clear();
    }
  }

  // Removes pieces from the end, at least one, worth `len` tokens or more.
  void shrink_by(std::int64_t len) {
    do {
      len -= lens.back();
      total_len -= lens.back();
      lens.pop_back();
      pieces.pop_back();
    } while (len > 0 && !pieces.empty());
    ended = true;  // what was removed is not to come back
  }

  std::string waiting;
  std::int64_t waiting_len = 0;
};

// The prompt with fact i before the piece at depths[i] of the filler.
std::string join(const std::string& opening, const std::vector<std::string>& pieces,
                 const std::vector<Fact>& facts, const std::vector<double>& depths) {
  std::vector<std::vector<std::size_t>> facts_before(pieces.size() + 1);
  for (std::size_t i = 0; i < facts.size(); ++i) {
    const double place = depths[i] * static_cast<double>(facts_before.size());
    facts_before[static_cast<std::size_t>(place)].push_back(i);
  }
  std::string prompt = opening;
  for (std::size_t p = 0; p <= pieces.size(); ++p) {
    for (const std::size_t i : facts_before[p]) prompt += facts[i].sentence;
    if (p < pieces.size()) prompt += pieces[p];
  }
  return prompt;
}

}  // namespace

void mark_scored(std::vector<Fact>& facts) {
  if (facts.size() > 1) facts[0].turn.scored = false;
}

Document hide_facts(std::string_view task, const TaskOptions& options, const std::string& opening,
                    const std::vector<Fact>& facts, const NextFiller& next_filler, Random& random) {
  // Growing again after measuring the whole text: the seams' share, a few percent, is then
  // used up as well.
  constexpr int kMaxGrowths = 4;
  const CountTokens& count = options.count_tokens;

  Document document;
  std::int64_t fixed_len = count(opening);
  std::vector<double> depths;
  for (const Fact& fact : facts) {
    fixed_len += count(fact.sentence);
    document.turns.push_back(fact.turn);
    depths.push_back(random.uniform());
  }
  fixed_len += count_document(document, count);
  if (fixed_len > options.length) {
    throw_usage(fmt::format("task '{}': length", task),
                fmt::format("at least {} tokens for {} questions", fixed_len, facts.size()),
                fmt::format("{}", options.length), "choose a larger length");
  }

  Filler filler;
  std::int64_t budget = options.length - fixed_len;
  for (int growth = 0;; ++growth) {
    if (growth < kMaxGrowths) filler.grow_to(budget, next_filler, count);
    document.prompt = join(opening, filler.pieces, facts, depths);
    const std::int64_t spare = options.length - count_document(document, count);
    if (spare < 0) {
      if (filler.pieces.empty()) {
        throw_usage(fmt::format("task '{}': length", task), "room for the questions",
                    fmt::format("{}", options.length), "choose a larger length");
      }
      filler.shrink_by(-spare);
      growth = kMaxGrowths;
      continue;
    }
    const std::int64_t close_enough = std::max(filler.waiting_len, options.length / 64);
    if (growth >= kMaxGrowths || spare <= close_enough) return document;
    if (filler.ended) {
      throw_usage(fmt::format("task '{}': haystack", task),
                  fmt::format("a text of at least {} tokens", options.length),
                  fmt::format("one of about {}", filler.total_len), "give a longer text");
    }
    budget = filler.total_len + spare;
  }
}

}  // namespace loza
