// Multi-round coreference, after OpenAI's MRCR: a conversation in which the same kind of text
// about the same topic is asked for several times, and then the i-th of them.
#include <fmt/format.h>

#include <array>
#include <unordered_set>
#include <utility>

#include "loza/tasks/hide.h"
#include "loza/tasks/registry.h"
#include "loza/tasks/words.h"

namespace loza {
namespace {

constexpr std::array<const char*, 16> kKinds = {
    "poem",   "story", "song", "letter", "riddle",     "speech", "recipe", "joke",
    "report", "fable", "play", "legend", "diary page", "review", "slogan", "prayer"};
constexpr std::array<const char*, 16> kVerbs = {
    "follows", "paints",  "forgets", "guards", "carries", "praises", "visits",  "mends",
    "chases",  "watches", "borrows", "hides",  "lifts",   "greets",  "invents", "remembers"};
constexpr std::array<const char*, 4> kOrdinals = {"first", "second", "third", "fourth"};

template <std::size_t n>
const char* any_of(const std::array<const char*, n>& words, Random& random) {
  return words[static_cast<std::size_t>(random.below(n))];
}

std::string random_reply(Random& random) {
  constexpr int kNumSentences = 3;
  std::string reply;
  for (int i = 0; i < kNumSentences; ++i) {
    const char* subject_is = random_adjective(random);
    const char* subject = random_noun(random);
    const char* verb = any_of(kVerbs, random);
    const char* object_is = random_adjective(random);
    reply += fmt::format("{}The {} {} {} the {} {}.", i == 0 ? "" : " ", subject_is, subject, verb,
                         object_is, random_noun(random));
  }
  return reply;
}

// "poem about the otter".
std::string random_wish(Random& random) {
  const char* kind = any_of(kKinds, random);
  return fmt::format("{} about the {}", kind, random_noun(random));
}

std::string random_mark(Random& random) {
  constexpr std::string_view kSigns = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
  constexpr int kNumSigns = 6;
  std::string mark;
  for (int i = 0; i < kNumSigns; ++i) {
    mark += kSigns[static_cast<std::size_t>(random.below(kSigns.size()))];
  }
  return mark;
}

std::string round_of(const std::string& wish, const std::string& reply) {
  return fmt::format("User: Write a {}.\nAssistant: {}\n", wish, reply);
}

Document make_conversation(const char* task, std::size_t num_alike, const TaskOptions& options,
                           std::int64_t index) {
  Random random = document_random(task, options.seed, index);
  std::unordered_set<std::string> wishes, replies;
  const auto new_reply = [&] {
    std::string reply = random_reply(random);
    while (!replies.insert(reply).second) reply = random_reply(random);
    return reply;
  };
  std::vector<std::string> rounds;
  std::vector<Turn> turns;
  for (std::int64_t i = 0; i < options.num_questions; ++i) {
    std::string wish = random_wish(random);
    while (!wishes.insert(wish).second) wish = random_wish(random);
    const auto asked = static_cast<std::size_t>(random.below(static_cast<std::int64_t>(num_alike)));
    const std::string mark = random_mark(random);
    for (std::size_t k = 0; k < num_alike; ++k) {
      const std::string reply = new_reply();
      rounds.push_back(round_of(wish, reply));
      if (k != asked) continue;
      turns.push_back({fmt::format("{}User: Write {} and then, word for word, the {} {}.\n"
                                   "Assistant:",
                                   turns.empty() ? "" : "\n", mark, kOrdinals[k], wish),
                       fmt::format(" {} {}", mark, reply)});
    }
  }
  const auto other_round = [&] {
    std::string wish = random_wish(random);
    while (wishes.contains(wish)) wish = random_wish(random);
    return round_of(wish, new_reply());
  };
  const auto hidden = scatter(std::move(rounds), num_alike, random);
  return hide(task, options,
              "Below is a conversation with many requests. At its end some of the texts are asked "
              "for again.\n\n",
              hidden, std::move(turns), other_round, random);
}

}  // namespace

Document make_mrcr_2(const TaskOptions& options, std::int64_t index) {
  return make_conversation("mrcr-2", 2, options, index);
}

Document make_mrcr_4(const TaskOptions& options, std::int64_t index) {
  return make_conversation("mrcr-4", 4, options, index);
}

}  // namespace loza
