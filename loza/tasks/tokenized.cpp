#include "loza/tasks/tokenized.h"

#include <fmt/format.h>

#include <algorithm>

#include "loza/base/check.h"
#include "loza/base/error.h"

namespace loza {
namespace {

void append(TokenizedDocument& document, const std::vector<std::int64_t>& ids, bool is_answer,
            bool is_scored) {
  document.ids.insert(document.ids.end(), ids.begin(), ids.end());
  document.is_answer.resize(document.ids.size(), is_answer);
  document.is_scored.resize(document.ids.size(), is_scored);
}

// For the tokens that have none yet.
void append_positions(TokenizedDocument& document, std::int64_t shift) {
  for (auto t = static_cast<std::int64_t>(document.positions.size()); t < document.length(); ++t) {
    document.positions.push_back(t + shift);
  }
}

// The prompt between its jumps: part 0 stands before the first one.
std::vector<std::string_view> prompt_parts(const Document& document) {
  const std::string_view prompt = document.prompt;
  std::vector<std::string_view> parts;
  std::size_t begin = 0;
  for (const PositionJump& jump : document.jumps) {
    LOZA_CHECK(begin <= jump.prompt_byte && jump.prompt_byte <= prompt.size(), jump.prompt_byte);
    parts.push_back(prompt.substr(begin, jump.prompt_byte - begin));
    begin = jump.prompt_byte;
  }
  parts.push_back(prompt.substr(begin));
  return parts;
}

void append_prompt(TokenizedDocument& result, const Document& document, const EncodeText& encode) {
  const std::vector<std::string_view> parts = prompt_parts(document);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    append(result, encode(parts[i]), false, false);
    if (document.jumps.empty()) continue;
    const std::int64_t shift = i == 0 ? 0 : document.jumps[i - 1].shift;
    append_positions(result, shift);
  }
}

void mark_plain_text(TokenizedDocument& document, std::int64_t loss_from) {
  for (std::int64_t t = std::max<std::int64_t>(loss_from, 1); t < document.length(); ++t) {
    document.is_answer[static_cast<std::size_t>(t)] = 1;
    document.is_scored[static_cast<std::size_t>(t)] = 1;
  }
}

TokenizedDocument slice(const TokenizedDocument& document, std::int64_t begin, std::int64_t end) {
  const auto part = [&](const auto& all) {
    return std::decay_t<decltype(all)>(all.begin() + begin, all.begin() + end);
  };
  TokenizedDocument window{
      part(document.ids), part(document.is_answer), part(document.is_scored), {}, document.kind};
  for (std::int64_t t = begin; t < end && !document.positions.empty(); ++t) {
    const auto at = [&](std::int64_t i) { return document.positions[static_cast<std::size_t>(i)]; };
    window.positions.push_back(at(t) - at(begin));
  }
  window.is_answer[0] = window.is_scored[0] = 0;
  return window;
}

}  // namespace

TokenizedDocument tokenize_document(const Document& document, const EncodeText& encode) {
  TokenizedDocument result;
  append_prompt(result, document, encode);
  for (const Turn& turn : document.turns) {
    append(result, encode(turn.question), false, false);
    const std::int64_t begin = result.length();
    append(result, encode(turn.answer), true, turn.scored);
    if (begin == 0 || begin == result.length()) {
      throw_bad_input("a document's answer", "one with tokens, after a prompt or a question",
                      begin == 0 ? "nothing before it" : "an empty answer");
    }
    result.answers.push_back({begin, result.length(), turn.scored});
  }
  if (!document.jumps.empty()) append_positions(result, document.jumps.back().shift);
  if (document.turns.empty()) mark_plain_text(result, document.loss_from);
  return result;
}

std::vector<std::int64_t> marked_positions(const std::vector<std::uint8_t>& marks) {
  std::vector<std::int64_t> positions;
  for (std::size_t t = 0; t < marks.size(); ++t) {
    if (marks[t] != 0) positions.push_back(static_cast<std::int64_t>(t));
  }
  return positions;
}

Targets targets_at(const TokenizedDocument& document, const std::vector<std::int64_t>& positions) {
  Targets targets;
  for (const std::int64_t position : positions) {
    LOZA_CHECK(position >= 1 && position < document.length(), position, document.length());
    targets.rows.push_back(position - 1);
    targets.ids.push_back(document.ids[static_cast<std::size_t>(position)]);
  }
  return targets;
}

std::int64_t count_document(const Document& document, const CountTokens& count_tokens) {
  std::int64_t len = 0;
  for (const std::string_view part : prompt_parts(document)) len += count_tokens(part);
  for (const Turn& turn : document.turns) {
    len += count_tokens(turn.question) + count_tokens(turn.answer);
  }
  return len;
}

std::vector<TokenizedDocument> cut_into_windows(const TokenizedDocument& document,
                                                std::int64_t window_len) {
  LOZA_CHECK(window_len >= 2, window_len);
  if (document.length() <= window_len) return {document};
  if (!document.answers.empty()) {
    throw_bad_input("a document with questions", fmt::format("at most {} tokens", window_len),
                    fmt::format("{}", document.length()),
                    "it can't be cut: shorten it or allow more");
  }
  std::vector<TokenizedDocument> windows;
  for (std::int64_t begin = 0; begin + 2 <= document.length(); begin += window_len) {
    windows.push_back(slice(document, begin, std::min(begin + window_len, document.length())));
  }
  return windows;
}

}  // namespace loza
