#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace loza {

// Bytes [begin, end) of a text.
struct ByteRange {
  std::size_t begin = 0, end = 0;
};

// A pattern in Oniguruma's syntax over UTF-8, the engine that Hugging Face's tokenizers use
// too. Immutable; thread-safe.
class Regex {
 public:
  enum class Syntax { kRegex, kLiteral };
  // `place` begins error lines. Throws Error(kBadInput) for what is not a pattern.
  Regex(const std::string& pattern, Syntax syntax, std::string place);

  // All matches from left to right, none overlapping. An empty match directly behind
  // another match is left out. REQUIRES: text is UTF-8.
  // Throws Error(kBadInput) when the pattern needs too many steps for this text.
  std::vector<ByteRange> find_all(std::string_view text) const;

 private:
  struct Compiled;
  struct Free {
    void operator()(Compiled* compiled) const;
  };
  std::unique_ptr<Compiled, Free> compiled_;
  std::string place_;
};

}  // namespace loza
