#include "loza/tokenizer/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "loza/base/error.h"
#include "loza/base/utf8.h"
#include "loza/tokenizer/fields.h"
#include "loza/tokenizer/unicode.h"

namespace loza {
namespace {

// Bounds the steps that a text can cost: each byte may begin a match that fails at the end.
constexpr std::size_t kMaxSpellingBytes = 1024;

std::uint64_t edge(std::uint32_t node, char byte) {
  return std::uint64_t{node} << 8 | static_cast<unsigned char>(byte);
}

// Where the character that ends at `end` begins.
std::size_t previous_char(std::string_view text, std::size_t end) {
  std::size_t begin = end - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return begin;
}

bool ends_with_word(std::string_view text) {
  return !text.empty() && is_word(utf8_at(text, previous_char(text, text.size())).code);
}

bool starts_with_word(std::string_view text) {
  return !text.empty() && is_word(utf8_at(text, 0).code);
}

// Where the white space that ends at `end` begins.
std::size_t space_begin(std::string_view text, std::size_t end) {
  while (end > 0) {
    const std::size_t begin = previous_char(text, end);
    if (!is_white_space(utf8_at(text, begin).code)) break;
    end = begin;
  }
  return end;
}

// Where the white space that begins at `begin` ends.
std::size_t space_end(std::string_view text, std::size_t begin) {
  while (begin < text.size()) {
    const Utf8Char c = utf8_at(text, begin);
    if (!is_white_space(c.code)) break;
    begin += c.size;
  }
  return begin;
}

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
  return !ends_with_word(text.substr(0, begin)) && !starts_with_word(text.substr(end));
}

AddedToken read_token(const Json& value, const std::string& place) {
  const Fields fields(
      value, place, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  AddedToken token{
      fields.need_id("id"),       fields.need_string("content"), fields.need_bool("single_word"),
      fields.need_bool("lstrip"), fields.need_bool("rstrip"),    fields.need_bool("normalized"),
      fields.need_bool("special")};
  if (token.content.empty() || token.content.size() > kMaxSpellingBytes) {
    throw_bad_input(fields.place_of("content"), fmt::format("1 to {} bytes", kMaxSpellingBytes),
                    fmt::format("{}", token.content.size()));
  }
  return token;
}

}  // namespace

bool SpellingMatcher::add(std::string_view spelling, const AddedToken& token) {
  std::uint32_t node = 0;
  for (const char byte : spelling) {
    const auto [it, is_new] =
        next_.try_emplace(edge(node, byte), static_cast<std::uint32_t>(ends_.size()));
    if (is_new) ends_.push_back(nullptr);
    node = it->second;
  }
  if (ends_[node] != nullptr) return false;
  ends_[node] = &token;
  return true;
}

SpellingMatcher::Match SpellingMatcher::longest_at(std::string_view text, std::size_t begin) const {
  Match longest;
  std::uint32_t node = 0;
  for (std::size_t i = begin; i < text.size(); ++i) {
    const auto it = next_.find(edge(node, text[i]));
    if (it == next_.end()) break;
    node = it->second;
    if (ends_[node] != nullptr) longest = {i + 1 - begin, ends_[node]};
  }
  return longest;
}

std::vector<TextPart> SpellingMatcher::split(std::string_view text, bool skip_special) const {
  std::vector<TextPart> parts;
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size() && !next_.empty();) {
    const Match match = longest_at(text, at);
    if (match.token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    std::size_t end = at += match.size;
    const AddedToken& token = *match.token;
    if (skip_special && token.special) continue;
    if (token.single_word && !stands_alone(text, begin, end)) continue;
    if (token.lstrip) begin = std::max(space_begin(text, begin), done);
    if (token.rstrip) end = space_end(text, end);
    if (done < begin) parts.push_back({text.substr(done, begin - done)});
    parts.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  if (done != text.size()) parts.push_back({text.substr(done)});
  return parts;
}

std::vector<AddedToken> read_added_tokens(const Json& value, const std::string& place) {
  if (!value.is_array()) throw_bad_input(place, "an array", describe_json(value));
  std::vector<AddedToken> tokens;
  std::unordered_set<std::int64_t> ids;
  std::unordered_set<std::string> contents;
  for (std::size_t i = 0; i < value.size(); ++i) {
    const std::string here = fmt::format("{}[{}]", place, i);
    AddedToken token = read_token(value[i], here);
    if (!ids.insert(token.id).second) {
      throw_bad_input(here, "each id once", fmt::format("{} again", token.id));
    }
    if (!contents.insert(token.content).second) {
      throw_bad_input(here, "each content once",
                      fmt::format("{} again", describe_json(token.content)));
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

}  // namespace loza
