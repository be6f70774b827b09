#include "loza/tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <queue>
#include <utility>

#include "loza/base/error.h"
#include "loza/base/utf8.h"
#include "loza/tokenizer/byte_alphabet.h"
#include "loza/tokenizer/fields.h"

namespace loza {
namespace {

std::uint64_t pair_key(std::int64_t left, std::int64_t right) {
  return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint64_t>(right);
}

// A merge that may be done: lowest rank first, then leftmost.
struct Candidate {
  std::uint32_t rank;
  std::int64_t place;
  std::int64_t id;

  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : place > other.place;
  }
};

using CandidateQueue =
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<Candidate>>;

std::string char_of_byte(unsigned char byte) {
  std::string text;
  append_utf8(text, byte_to_char(byte));
  return text;
}

// The two halves of a merge: "a b", or ["a", "b"].
std::pair<std::string, std::string> merge_halves(const Json& value, const std::string& place) {
  if (value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_string()) {
    return {value[0].get<std::string>(), value[1].get<std::string>()};
  }
  if (value.is_string()) {
    const auto text = value.get<std::string>();
    const std::size_t space = text.find(' ');
    if (space != text.npos && text.find(' ', space + 1) == text.npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  }
  throw_bad_input(place, "two tokens", describe_json(value));
}

void refuse_affix(const Fields& fields, const char* name) {
  if (!fields.string_or(name, "").empty()) {
    throw_bad_input(fields.place_of(name), "null or an empty string",
                    describe_json(fields.need(name)), "it is not supported");
  }
}

void refuse_dropout(const Fields& fields) {
  const Json* dropout = fields.find("dropout");
  if (dropout != nullptr && !(dropout->is_number() && dropout->get<double>() == 0)) {
    throw_bad_input(fields.place_of("dropout"), "null or 0", describe_json(*dropout),
                    "random tokens are not supported");
  }
}

}  // namespace

BpeModel::BpeModel(const Json& value, const std::string& place) : place_(place) {
  if (value.is_object() && value.contains("type") && type_of(value, place) != "BPE") {
    throw_bad_input(place, "a model of type BPE", describe_json(value["type"]),
                    "only byte-level BPE is supported");
  }
  const Fields fields(
      value, place,
      {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
       "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
  refuse_dropout(fields);
  refuse_affix(fields, "continuing_subword_prefix");
  refuse_affix(fields, "end_of_word_suffix");
  read_vocabulary(fields.need("vocab"), fields.place_of("vocab"));
  read_merges(fields.need("merges"), fields.place_of("merges"));
  index_bytes();
  if (fields.bool_or("byte_fallback", false)) index_fallback();
  if (fields.bool_or("ignore_merges", false)) index_whole_words();
  fuse_unknown_ = fields.bool_or("fuse_unk", false);
  has_unknown_ = fields.find("unk_token") != nullptr;
  unknown_token_ = fields.string_or("unk_token", "");
  if (has_unknown_) unknown_id_ = find(unknown_token_);
}

void BpeModel::read_vocabulary(const Json& value, const std::string& place) {
  if (!value.is_object() || value.empty()) {
    throw_bad_input(place, "an object with tokens", describe_json(value));
  }
  std::unordered_set<std::int64_t> ids;
  for (const auto& [token, id] : value.items()) {
    const std::int64_t token_id = token_id_at(id, fmt::format("{}[{}]", place, Json(token).dump()));
    if (!ids.insert(token_id).second) {
      throw_bad_input(place, "each id once", fmt::format("{} again", token_id));
    }
    vocabulary_.emplace(token, token_id);
  }
}

void BpeModel::read_merges(const Json& value, const std::string& place) {
  if (!value.is_array()) throw_bad_input(place, "an array", describe_json(value));
  std::uint32_t rank = 0;
  for (std::size_t i = 0; i < value.size(); ++i) {
    const Json& merge = value[i];
    if (merge.is_string() && merge.get<std::string>().starts_with("#version")) continue;
    const std::string here = fmt::format("{}[{}]", place, i);
    const auto [left, right] = merge_halves(merge, here);
    merges_.insert_or_assign(pair_key(id_of(left, here), id_of(right, here)),
                             Merge{rank++, id_of(left + right, here)});
  }
}

std::int64_t BpeModel::id_of(const std::string& token, const std::string& place) const {
  const std::int64_t id = find(token);
  if (id < 0) {
    throw_bad_input(place, "two tokens that the vocabulary has, alone and joined",
                    fmt::format("{}, which it has not", describe_json(token)));
  }
  return id;
}

std::int64_t BpeModel::find(const std::string& token) const {
  const auto it = vocabulary_.find(token);
  return it == vocabulary_.end() ? -1 : it->second;
}

void BpeModel::index_bytes() {
  for (std::size_t byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = find(char_of_byte(static_cast<unsigned char>(byte)));
  }
}

// A byte's fallback is that of its character in the alphabet of bytes, as Hugging Face's
// tokenizers have it.
void BpeModel::index_fallback() {
  for (std::size_t byte = 0; byte < 256; ++byte) {
    std::vector<std::int64_t> ids;
    for (const char c : char_of_byte(static_cast<unsigned char>(byte))) {
      ids.push_back(find(fmt::format("<0x{:02X}>", static_cast<unsigned char>(c))));
    }
    if (std::find(ids.begin(), ids.end(), -1) == ids.end()) fallback_ids_[byte] = std::move(ids);
  }
}

void BpeModel::index_whole_words() {
  for (const auto& [token, id] : vocabulary_) {
    if (auto bytes = spelled_bytes(token)) whole_words_.emplace(std::move(*bytes), id);
  }
}

const BpeModel::Merge* BpeModel::merge_of(std::int64_t left, std::int64_t right,
                                          const Forbidden& forbidden) const {
  const auto it = merges_.find(pair_key(left, right));
  if (it == merges_.end() || forbidden.contains(it->second.id)) return nullptr;
  return &it->second;
}

std::vector<BpeModel::Symbol> BpeModel::symbols_of(std::string_view word,
                                                   const Forbidden& forbidden) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  const auto add = [&](std::int64_t id) {
    const auto place = static_cast<std::int64_t>(symbols.size());
    if (!symbols.empty()) symbols.back().next = place;
    symbols.push_back({id, place - 1, -1, false});
  };
  // An unknown token waits until it is clear whether the next one fuses with it. Fallback
  // tokens overtake it, as they do in Hugging Face's tokenizers.
  bool unknown_waits = false;
  const auto flush_unknown = [&] {
    if (unknown_waits && !forbidden.contains(unknown_id_)) add(unknown_id_);
    unknown_waits = false;
  };
  for (const char c : word) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte_ids_[byte] >= 0) {
      flush_unknown();
      add(byte_ids_[byte]);
    } else if (!fallback_ids_[byte].empty()) {
      for (const std::int64_t id : fallback_ids_[byte]) {
        if (!forbidden.contains(id)) add(id);
      }
    } else if (has_unknown_) {
      if (unknown_id_ < 0) {
        throw_bad_input(place_ + ".unk_token", "a token of the vocabulary",
                        Json(unknown_token_).dump());
      }
      if (!fuse_unknown_) flush_unknown();
      unknown_waits = true;
    }
  }
  flush_unknown();
  return symbols;
}

void BpeModel::merge_all(std::vector<Symbol>& symbols, const Forbidden& forbidden) const {
  CandidateQueue queue;
  const auto at = [&](std::int64_t place) -> Symbol& {
    return symbols[static_cast<std::size_t>(place)];
  };
  const auto consider = [&](std::int64_t place) {
    if (place < 0 || at(place).next < 0) return;
    const Merge* merge = merge_of(at(place).id, at(at(place).next).id, forbidden);
    if (merge != nullptr) queue.push({merge->rank, place, merge->id});
  };
  for (std::int64_t place = 0; place < std::ssize(symbols); ++place) consider(place);

  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = at(best.place);
    if (left.is_removed || left.next < 0) continue;
    Symbol& right = at(left.next);
    const Merge* merge = merge_of(left.id, right.id, forbidden);
    if (merge == nullptr || merge->id != best.id) continue;  // its symbols have changed since
    left.id = best.id;
    left.next = right.next;
    right.is_removed = true;
    if (left.next >= 0) at(left.next).previous = best.place;
    consider(left.previous);
    consider(best.place);
  }
}

void BpeModel::encode_word(std::string_view word, const Forbidden& forbidden,
                           std::vector<std::int64_t>& ids) const {
  if (!whole_words_.empty()) {
    const auto it = whole_words_.find(std::string(word));
    if (it != whole_words_.end() && (word.size() == 1 || !forbidden.contains(it->second))) {
      ids.push_back(it->second);
      return;
    }
  }
  std::vector<Symbol> symbols = symbols_of(word, forbidden);
  merge_all(symbols, forbidden);
  for (const Symbol& symbol : symbols) {
    if (!symbol.is_removed) ids.push_back(symbol.id);
  }
}

}  // namespace loza
