#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "loza/base/json.h"
#include "loza/tokenizer/regex.h"

namespace loza {

// What a Split does with the pieces that its pattern matches.
enum class SplitBehavior {
  kRemoved,
  kIsolated,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous,
};

// Cuts a text into words, which the model then encodes one by one: Digits, Split and
// ByteLevel, and Sequences of them that end with the one ByteLevel. Immutable; thread-safe.
class PreTokenizer {
 public:
  // From the value of "pre_tokenizer", nullptr for none. `place` begins error lines.
  // Throws Error(kBadInput) for any other pre-tokeniser, naming it.
  PreTokenizer(const Json* value, const std::string& place);

  // The words of `text`, none empty, as raw bytes: views into it or, where a word got a
  // space in front, into `made`. REQUIRES: text is UTF-8.
  // Throws Error(kBadInput) when a pattern needs too many steps for this text.
  std::vector<std::string_view> words(std::string_view text, std::deque<std::string>& made) const;

 private:
  using Words = std::vector<std::string_view>;
  struct Digits {
    bool individual;
  };
  struct Split {
    Regex pattern;
    SplitBehavior behavior;
    bool invert;
  };
  struct ByteLevel {
    bool add_prefix_space;
    std::optional<Split> split;
  };

  static void apply(const Digits& step, std::string_view text, Words& words);
  static void apply(const Split& step, std::string_view text, Words& words);
  void add_step(const Json& value, const std::string& place);
  void add_digits(const Json& value, const std::string& place);
  void add_split(const Json& value, const std::string& place);
  void set_byte_level(const Json& value, const std::string& place);

  std::vector<std::variant<Digits, Split>> steps_;
  std::optional<ByteLevel> byte_level_;  // the last step; always there once constructed
};

}  // namespace loza
