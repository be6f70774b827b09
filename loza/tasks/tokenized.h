#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "loza/tasks/task.h"

namespace loza {

using EncodeText = std::function<std::vector<std::int64_t>(std::string_view)>;

// The tokens [begin, end) of an answer.
struct AnswerSpan {
  std::int64_t begin = 0, end = 0;
  bool scored = true;
};

struct TokenizedDocument {
  std::vector<std::int64_t> ids;        // [T]
  std::vector<std::uint8_t> is_answer;  // [T] 1: the loss counts this token's prediction
  std::vector<std::uint8_t> is_scored;  // [T] 1: of a scored answer, or of a plain text
  std::vector<AnswerSpan> answers;      // one a turn; empty for a plain text
  std::string kind;                     // where it comes from, for reports; may be empty
  // [T] where each token stands, strictly rising; empty: 0 to T-1.
  std::vector<std::int64_t> positions = {};

  std::int64_t length() const { return static_cast<std::int64_t>(ids.size()); }
};

// Encodes prompt, questions and answers one by one and joins the ids, so that an answer's
// tokens never depend on how the text was cut. The first token of all has nothing to be
// predicted from and is never marked. Only a document with jumps gets positions.
// Throws Error(kBadInput) when an answer has no tokens or nothing before it.
TokenizedDocument tokenize_document(const Document& document, const EncodeText& encode);

// The positions that `marks` [T] (is_answer, is_scored) marks, rising.
std::vector<std::int64_t> marked_positions(const std::vector<std::uint8_t>& marks);

// What a model is asked at positions of a document: row t - 1 of its hidden states predicts the
// token at position t.
struct Targets {
  std::vector<std::int64_t> rows;  // [N]
  std::vector<std::int64_t> ids;   // [N]
};
// REQUIRES: 1 <= position < length.
Targets targets_at(const TokenizedDocument& document, const std::vector<std::int64_t>& positions);

// How long the document is in tokens, as tokenize_document joins it.
std::int64_t count_document(const Document& document, const CountTokens& count_tokens);

// Cuts a plain text into consecutive windows of window_len tokens; what is left at the end
// is kept when it has at least two tokens. A document that is short enough stays whole,
// with or without turns. REQUIRES: window_len >= 2.
// Throws Error(kBadInput) for a longer document with turns: it can't be cut.
std::vector<TokenizedDocument> cut_into_windows(const TokenizedDocument& document,
                                                std::int64_t window_len);

}  // namespace loza
