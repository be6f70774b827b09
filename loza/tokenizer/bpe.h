#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "loza/base/json.h"

namespace loza {

// The byte-level BPE model of a tokenizer.json: begins with a word's bytes as tokens and
// joins neighbours, the pair of lowest rank first. Immutable; thread-safe.
class BpeModel {
 public:
  // From the value of "model". `place` begins error lines.
  // Throws Error(kBadInput) for other models, options that change the result and are not
  // supported (dropout, prefixes and suffixes), and tables that contradict themselves.
  BpeModel(const Json& value, const std::string& place);

  // Tokens as the file spells them, by spelling.
  const std::unordered_map<std::string, std::int64_t>& vocabulary() const { return vocabulary_; }

  // Appends the tokens of one word. Ids in `forbidden` are not made of several bytes: what
  // would become such a token stays in smaller ones. A byte without a token becomes its
  // byte-fallback tokens or the unknown token where the file has them; else it is left out,
  // as Hugging Face's tokenizers do. Takes O(n log n) for n bytes.
  // Throws Error(kBadInput) when the unknown token is needed and is not in the vocabulary.
  void encode_word(std::string_view word, const std::unordered_set<std::int64_t>& forbidden,
                   std::vector<std::int64_t>& ids) const;

 private:
  struct Merge {
    std::uint32_t rank;
    std::int64_t id;
  };
  struct Symbol {
    std::int64_t id;
    std::int64_t previous, next;  // places in the word; -1 at its ends
    bool is_removed;
  };
  using Forbidden = std::unordered_set<std::int64_t>;

  void read_vocabulary(const Json& value, const std::string& place);
  void read_merges(const Json& value, const std::string& place);
  void index_bytes();
  void index_fallback();
  void index_whole_words();
  std::int64_t find(const std::string& token) const;  // -1 where it is not there
  std::int64_t id_of(const std::string& token, const std::string& place) const;
  const Merge* merge_of(std::int64_t left, std::int64_t right, const Forbidden& forbidden) const;
  std::vector<Symbol> symbols_of(std::string_view word, const Forbidden& forbidden) const;
  void merge_all(std::vector<Symbol>& symbols, const Forbidden& forbidden) const;

  std::string place_;
  std::unordered_map<std::string, std::int64_t> vocabulary_;
  std::unordered_map<std::uint64_t, Merge> merges_;  // by left id << 32 | right id
  std::array<std::int64_t, 256> byte_ids_{};         // -1 where the vocabulary has no such byte
  std::array<std::vector<std::int64_t>, 256> fallback_ids_;    // empty: none
  std::unordered_map<std::string, std::int64_t> whole_words_;  // by bytes, for ignore_merges
  std::string unknown_token_;
  bool has_unknown_ = false, fuse_unknown_ = false;
  std::int64_t unknown_id_ = -1;
};

}  // namespace loza
