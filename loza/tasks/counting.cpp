// RULER's aggregation tasks: which words of a long list are the most frequent ones?
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "loza/base/error.h"
#include "loza/tasks/hide.h"
#include "loza/tasks/registry.h"
#include "loza/tasks/words.h"

namespace loza {
namespace {

// Words that each come num_each times, as those of num_open words at a time do in random order.
class MixedWords {
 public:
  MixedWords(UniqueNames& names, std::int64_t num_each, Random& random)
      : names_(names), num_each_(num_each), random_(random) {}

  std::string next() {
    constexpr std::size_t kNumOpen = 100;
    while (open_.size() < kNumOpen) open_.push_back({names_.next(), num_each_});
    const std::int64_t i = random_.below(kNumOpen);
    std::swap(open_[static_cast<std::size_t>(i)], open_.back());
    std::string word = open_.back().first;
    if (--open_.back().second == 0) open_.pop_back();
    return word;
  }

 private:
  UniqueNames& names_;
  std::int64_t num_each_;
  Random& random_;
  std::vector<std::pair<std::string, std::int64_t>> open_;  // and how often they are still to come
};

// The share of rank k in fwe is k^-2 over the sum of all (a zeta distribution). Rank 1 is dots.
constexpr double kZeta2 = 1.6449340668482264;
constexpr std::int64_t kNumRanks = 2000;

double share_of_rank(std::int64_t rank) {
  return 1 / (kZeta2 * static_cast<double>(rank) * static_cast<double>(rank));
}

// Dots and the words of ranks 5 and more, none of these as often as max_each times.
class RareWords {
 public:
  RareWords(UniqueLetters& words, std::int64_t max_each, Random& random)
      : words_(words), max_each_(max_each), random_(random) {
    double sum = share_of_rank(1);
    for (std::int64_t rank = kFirstRank; rank < kNumRanks; ++rank) {
      up_to_.push_back(sum += share_of_rank(rank));
    }
    seen_.resize(up_to_.size());
  }

  std::string next() {
    const double place = random_.uniform() * up_to_.back();
    if (place < share_of_rank(1)) return " ...";
    const auto i = static_cast<std::size_t>(
        std::upper_bound(up_to_.begin(), up_to_.end() - 1, place) - up_to_.begin());
    if (seen_[i].second + 1 >= max_each_) return " ...";
    if (seen_[i].second++ == 0) seen_[i].first = words_.next();
    return " " + seen_[i].first;
  }

 private:
  static constexpr std::int64_t kFirstRank = 5;
  UniqueLetters& words_;
  std::int64_t max_each_;
  Random& random_;
  std::vector<double> up_to_;                               // cumulative shares
  std::vector<std::pair<std::string, std::int64_t>> seen_;  // a word and how often it came
};

void add_times(std::vector<std::string>& sentences, const std::string& word, std::int64_t times) {
  sentences.insert(sentences.end(), static_cast<std::size_t>(times), word);
}

}  // namespace

// Ten words come 30 times each, all others at most 3 times; 10 times and once where the ten would
// take up more than half of the document.
Document make_cwe(const TaskOptions& options, std::int64_t index) {
  constexpr std::int64_t kNumCommon = 10;
  Random random = document_random("cwe", options.seed, index);
  UniqueNames names(random);
  std::vector<std::string> sentences, common;
  for (std::int64_t i = 0; i < kNumCommon; ++i) common.push_back(names.next());
  const std::int64_t list_len = options.count_tokens(fmt::format("{}\n", fmt::join(common, "\n")));
  const bool is_short = 30 * list_len > options.length / 2;
  for (const std::string& word : common) add_times(sentences, word + "\n", is_short ? 10 : 30);
  std::sort(common.begin(), common.end());
  MixedWords others(names, is_short ? 1 : 3, random);
  const auto hidden = scatter(std::move(sentences), 1, random);
  return hide(
      "cwe", options,
      "Below is a list of words, of which some come more often than others. Memorize the "
      "ones that come most often.\n\n",
      hidden,
      {{"\nThe 10 words that come most often in the list, in alphabetical order, are:",
        fmt::format(" {}", fmt::join(common, ", "))}},
      [&] { return others.next() + "\n"; }, random);
}

// Words whose frequencies fall as those of a language do; the three most frequent ones.
Document make_fwe(const TaskOptions& options, std::int64_t index) {
  constexpr std::int64_t kNumAsked = 3;
  Random random = document_random("fwe", options.seed, index);
  UniqueLetters words(random, 'a', 6);
  std::vector<std::string> frequent;
  for (std::int64_t i = 0; i < kNumAsked; ++i) frequent.push_back(words.next());

  const double word_len =
      static_cast<double>(options.count_tokens(fmt::format(" {}", fmt::join(frequent, " ")))) /
      kNumAsked;
  const double dots_len = static_cast<double>(options.count_tokens(" ... ...")) / 2;
  const double mean_len =
      share_of_rank(1) * dots_len + (1 - share_of_rank(1)) * std::max(word_len, 1.0);
  const double num_words = static_cast<double>(options.length) / mean_len;
  const auto times = [&](std::int64_t rank) {
    return static_cast<std::int64_t>(share_of_rank(rank) * num_words);
  };
  if (times(kNumAsked + 1) < 3) {
    throw_usage("task 'fwe': length", "room for about 80 words of the text and its dots",
                fmt::format("{}", options.length), "choose a larger length");
  }
  std::vector<std::string> sentences;
  for (std::int64_t i = 0; i < kNumAsked; ++i) {
    add_times(sentences, " " + frequent[static_cast<std::size_t>(i)], times(i + 2));
  }
  RareWords others(words, times(kNumAsked + 1), random);
  const auto hidden = scatter(std::move(sentences), 1, random);
  return hide(
      "fwe", options,
      "Read the following coded text and track the frequency of each coded word. Ignore "
      "the dots.\n\n",
      hidden,
      {{"\n\nThe three most frequent words of the coded text, from the most frequent one "
        "down, are:",
        fmt::format(" {}", fmt::join(frequent, ", "))}},
      [&] { return others.next(); }, random);
}

}  // namespace loza
