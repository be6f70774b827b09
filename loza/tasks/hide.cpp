#include "loza/tasks/hide.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "loza/base/check.h"
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

// Opening, pieces and sentences, each sentence before the piece at its depth. Marks where a
// document may jump: before every piece and every sentence.
struct Prompt {
  std::string text;
  std::vector<PositionJump> jumps;

  Prompt(const std::string& opening, const std::vector<std::string>& pieces,
         const std::vector<Hidden>& hidden)
      : text(opening) {
    std::vector<std::vector<std::size_t>> hidden_before(pieces.size() + 1);
    for (std::size_t i = 0; i < hidden.size(); ++i) {
      const double place = hidden[i].depth * static_cast<double>(hidden_before.size());
      hidden_before[static_cast<std::size_t>(place)].push_back(i);
    }
    for (std::size_t p = 0; p <= pieces.size(); ++p) {
      for (const std::size_t i : hidden_before[p]) add(hidden[i].sentence);
      if (p < pieces.size()) add(pieces[p]);
    }
  }

 private:
  void add(const std::string& part) {
    jumps.push_back({text.size(), 0});
    text += part;
  }
};

// Shares the positions that the document may span beyond its length out to the jumps.
void spread(std::vector<PositionJump>& jumps, std::int64_t num_free, Random& random) {
  std::vector<std::int64_t> shifts;
  for (std::size_t i = 0; i < jumps.size(); ++i) shifts.push_back(random.below(num_free + 1));
  std::sort(shifts.begin(), shifts.end());
  for (std::size_t i = 0; i < jumps.size(); ++i) jumps[i].shift = shifts[i];
}

// The tokens of a document without filler.
std::int64_t fixed_len(const std::string& opening, const std::vector<Hidden>& hidden,
                       const Document& document, const CountTokens& count) {
  std::int64_t len = count(opening) + count_document(document, count);
  for (const Hidden& h : hidden) len += count(h.sentence);
  return len;
}

}  // namespace

std::vector<Hidden> scatter(std::vector<std::string> sentences, std::size_t ordered_len,
                            Random& random) {
  LOZA_CHECK(ordered_len >= 1 && sentences.size() % ordered_len == 0, sentences.size(),
             ordered_len);
  std::vector<double> depths;
  for (std::size_t i = 0; i < sentences.size(); ++i) depths.push_back(random.uniform());
  for (auto group = depths.begin(); group != depths.end();) {
    const auto end = group + static_cast<std::ptrdiff_t>(ordered_len);
    std::sort(group, end);
    group = end;
  }
  std::vector<Hidden> hidden;
  for (std::size_t i = 0; i < sentences.size(); ++i) {
    hidden.push_back({std::move(sentences[i]), depths[i]});
  }
  return hidden;
}

Document hide_facts(std::string_view task, const TaskOptions& options, const std::string& opening,
                    const std::vector<Fact>& facts, const NextFiller& next_filler, Random& random) {
  std::vector<std::string> sentences;
  std::vector<Turn> turns;
  for (const Fact& fact : facts) {
    sentences.push_back(fact.sentence);
    turns.push_back(fact.turn);
  }
  return hide(task, options, opening, scatter(std::move(sentences), 1, random), std::move(turns),
              next_filler, random);
}

Document hide(std::string_view task, const TaskOptions& options, const std::string& opening,
              const std::vector<Hidden>& hidden, std::vector<Turn> turns,
              const NextFiller& next_filler, Random& random) {
  // Growing again after measuring the whole text: the seams' share, a few percent, is then
  // used up as well.
  constexpr int kMaxGrowths = 4;
  const CountTokens& count = options.count_tokens;
  const bool is_spread = options.spread_to > options.length;

  if (turns.size() > 1) turns[0].scored = false;
  Document document;
  document.turns = std::move(turns);
  const std::int64_t least_len = fixed_len(opening, hidden, document, count);
  if (least_len > options.length) {
    throw_usage(fmt::format("task '{}': length", task),
                fmt::format("at least {} tokens for {} question{}", least_len,
                            document.turns.size(), document.turns.size() == 1 ? "" : "s"),
                fmt::format("{}", options.length), "choose a larger length");
  }

  Filler filler;
  std::int64_t budget = options.length - least_len;
  for (int growth = 0;; ++growth) {
    if (growth < kMaxGrowths) filler.grow_to(budget, next_filler, count);
    Prompt prompt(opening, filler.pieces, hidden);
    document.prompt = std::move(prompt.text);
    if (is_spread) document.jumps = std::move(prompt.jumps);
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
    if (growth >= kMaxGrowths || spare <= close_enough) {
      if (is_spread) spread(document.jumps, options.spread_to - options.length, random);
      return document;
    }
    if (filler.ended) {
      throw_usage(fmt::format("task '{}': haystack", task),
                  fmt::format("a text of at least {} tokens", options.length),
                  fmt::format("one of about {}", filler.total_len), "give a longer text");
    }
    budget = filler.total_len + spare;
  }
}

}  // namespace loza
