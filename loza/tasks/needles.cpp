#include "loza/tasks/needles.h"

#include <fmt/format.h>

#include <array>

#include "loza/base/check.h"

namespace loza {
namespace {

// {word} is "number" or "uuid". A question is followed by a space and the answer.
struct Wording {
  const char* opening;
  const char* sentence;    // {key}, {value}
  const char* value_of;    // the question for the one value of {key}
  const char* values_of;   // for the values of {key}, in the order of the text
  const char* value_each;  // for a value of each of {key}, "a, b and c", in their order
};

constexpr std::array<Wording, kNumWordings> kWordings = {{
    {"Some special magic {word}s are hidden within the following text. Make sure to memorize "
     "them. I will quiz you about the {word}s afterwards.\n\n",
     "One of the special magic {word}s for {key} is: {value}.\n",
     "The special magic {word} for {key} mentioned in the text is:",
     "All the special magic {word}s for {key} mentioned in the text, in their order, are:",
     "The special magic {word}s for {key} mentioned in the text are, one for each:"},
    {"Read the text below with care. It names secret codes in a few places, and you will be asked "
     "for them at the end.\n\n",
     "Remember that the secret code of {key} is {value}.\n",
     "Question: what is the secret code of {key}? Answer:",
     "Question: what are all the secret codes of {key}, first to last? Answer:",
     "Question: what are the secret codes of {key}, respectively? Answer:"},
    {"Somewhere in this document a registrar has noted which {word} was assigned to whom.\n\n",
     "Registrar's note: {key} was assigned the {word} {value}.\n",
     "According to the registrar's notes, {key} was assigned the {word}",
     "According to the registrar's notes, from top to bottom, {key} was assigned the {word}s",
     "According to the registrar's notes, {key} were assigned, in this order, the {word}s"},
    {"This text contains a number of vouchers. Keep track of who owns each of them.\n\n",
     "Voucher {value} belongs to {key}.\n", "The one voucher that {key} owns is voucher",
     "The vouchers that {key} owns, as they come in the text, are",
     "The owners {key} have these vouchers, one each:"},
}};

// "a", "a and b", "a, b and c".
std::string enumerate(const std::vector<std::string>& words) {
  std::string text = words[0];
  for (std::size_t i = 1; i < words.size(); ++i) {
    text += (i + 1 == words.size() ? " and " : ", ") + words[i];
  }
  return text;
}

}  // namespace

NeedleWriter::NeedleWriter(const NeedleForm& form, std::int64_t wording, Random& random)
    : form_(form), wording_(wording), random_(random), names_(random), numbers_(random, 7) {
  LOZA_CHECK(0 <= wording && wording < kNumWordings, wording);
}

NeedleWriter::Needles NeedleWriter::write(std::int64_t num_questions) {
  Needles needles;
  for (std::int64_t i = 0; i < num_questions; ++i) {
    std::vector<std::string> keys, values;
    for (std::int64_t k = 0; k < form_.keys_per_question; ++k) {
      keys.push_back(next(form_.key));
      for (std::int64_t v = 0; v < form_.values_per_key; ++v) {
        values.push_back(next(form_.value));
        needles.sentences.push_back(sentence(keys.back(), values.back()));
      }
    }
    needles.turns.push_back({question(keys, i == 0), fmt::format(" {}", fmt::join(values, ", "))});
  }
  return needles;
}

std::string NeedleWriter::write_distractor() {
  const std::string key = next(form_.key);
  return sentence(key, next(form_.value));
}

std::string NeedleWriter::opening() const {
  const char* word = form_.value == NeedleWord::kUuid ? "uuid" : "number";
  return fmt::format(fmt::runtime(kWordings[static_cast<std::size_t>(wording_)].opening),
                     fmt::arg("word", word));
}

std::string NeedleWriter::next(NeedleWord kind) {
  if (kind == NeedleWord::kUuid) return random_uuid(random_);
  return kind == NeedleWord::kName ? names_.next() : numbers_.next();
}

std::string NeedleWriter::sentence(const std::string& key, const std::string& value) const {
  const char* word = form_.value == NeedleWord::kUuid ? "uuid" : "number";
  return fmt::format(fmt::runtime(kWordings[static_cast<std::size_t>(wording_)].sentence),
                     fmt::arg("word", word), fmt::arg("key", key), fmt::arg("value", value));
}

std::string NeedleWriter::question(const std::vector<std::string>& keys, bool is_first) const {
  const Wording& wording = kWordings[static_cast<std::size_t>(wording_)];
  const char* text = form_.values_per_key > 1 ? wording.values_of
                     : keys.size() > 1        ? wording.value_each
                                              : wording.value_of;
  const char* word = form_.value == NeedleWord::kUuid ? "uuid" : "number";
  // The sentence before, the previous answer's, is not yet ended.
  return (is_first ? "\n" : ".\n") +
         fmt::format(fmt::runtime(text), fmt::arg("word", word), fmt::arg("key", enumerate(keys)));
}

}  // namespace loza
