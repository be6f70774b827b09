#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "loza/tasks/hide.h"
#include "loza/tasks/words.h"

namespace loza {

// RULER's needles (arXiv 2404.06654): sentences that give a value to a key. A key is a name
// like "brave-otter" or a UUID, a value a seven-digit number or a UUID.
enum class NeedleWord { kName, kNumber, kUuid };

// What a needle task makes of them.
struct NeedleForm {
  NeedleWord key = NeedleWord::kName, value = NeedleWord::kNumber;
  std::int64_t keys_per_question = 1;
  std::int64_t values_per_key = 1;            // asked together, in the order of the text
  std::int64_t distractors_per_question = 0;  // needles with keys that no question asks for
};

// Wordings are numbered from 0, which is RULER's own; the others say the same in other words,
// to see whether a model learned the task or the sentence.
constexpr std::int64_t kNumWordings = 4;

// Draws needles, each with a key of its own, and puts them into words. Not thread-safe.
class NeedleWriter {
 public:
  // REQUIRES: 0 <= wording < kNumWordings.
  NeedleWriter(const NeedleForm& form, std::int64_t wording, Random& random);

  struct Needles {
    std::vector<std::string> sentences;  // those of a key next to each other
    std::vector<Turn> turns;             // answers carry the space that stands before a value
  };
  Needles write(std::int64_t num_questions);
  // A needle that nothing asks for.
  std::string write_distractor();
  // What the document begins with.
  std::string opening() const;

 private:
  std::string next(NeedleWord kind);
  std::string sentence(const std::string& key, const std::string& value) const;
  std::string question(const std::vector<std::string>& keys, bool is_first) const;

  NeedleForm form_;
  std::int64_t wording_;
  Random& random_;
  UniqueNames names_;
  UniqueNumbers numbers_;
};

}  // namespace loza
