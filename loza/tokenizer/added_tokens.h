#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "loza/base/json.h"

namespace loza {

// A token that is found by its spelling before the text is cut into words.
struct AddedToken {
  std::int64_t id = 0;
  std::string content;
  bool single_word = false;  // not inside a word
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool normalized = false;   // looked for in the normalised text, in its normalised spelling
  bool special = false;      // a control token
};

// A part of a text: a token (id >= 0) or text that goes on to the next step (id -1).
struct TextPart {
  std::string_view text;
  std::int64_t id = -1;
};

// Finds spellings in a text: of those that begin first, the longest. Immutable; thread-safe.
class SpellingMatcher {
 public:
  // One with every spelling in it. REQUIRES: spelling is not empty.
  // Returns false when the spelling is there already.
  bool add(std::string_view spelling, const AddedToken& token);

  // Covers the text from left to right. With skip_special, the spelling of a special token
  // is text. REQUIRES: text is UTF-8; the tokens given to add() are alive.
  std::vector<TextPart> split(std::string_view text, bool skip_special) const;

 private:
  struct Match {
    std::size_t size = 0;
    const AddedToken* token = nullptr;
  };
  Match longest_at(std::string_view text, std::size_t begin) const;

  // A trie: the node behind (node, byte), and the token that ends at a node.
  std::unordered_map<std::uint64_t, std::uint32_t> next_;
  std::vector<const AddedToken*> ends_{nullptr};
};

// Reads the value of "added_tokens". `place` begins error lines.
// Throws Error(kBadInput): missing or unknown names, empty or too long spellings, ids or
// spellings that are there twice.
std::vector<AddedToken> read_added_tokens(const Json& value, const std::string& place);

}  // namespace loza
