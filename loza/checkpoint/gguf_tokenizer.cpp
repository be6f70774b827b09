#include "loza/checkpoint/gguf_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "loza/base/error.h"

namespace loza {
namespace {

constexpr const char* kBosKey = "tokenizer.ggml.bos_token_id";
constexpr const char* kEosKey = "tokenizer.ggml.eos_token_id";
constexpr const char* kPadKey = "tokenizer.ggml.padding_token_id";

// How a text is cut into words before the merges, by the name that GGUF files give it.
struct PreTokenizer {
  const char* gguf_name;
  bool splits_digits;   // each digit by itself, first
  const char* pattern;  // nullptr: GPT-2's own, which ByteLevel has built in
  bool normalizes;      // NFC
  bool ignores_merges;  // a word that is a token is not merged
  bool adds_bos;        // where tokenizer.ggml.add_bos_token is absent
};

// Llama 3's and Qwen2's, from their public tokenizer.json; they differ in the digits that
// stay together, 3 or 1.
constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr PreTokenizer kPreTokenizers[] = {
    {"gpt-2", false, nullptr, false, false, false},
    {"default", false, nullptr, false, false, false},
    {"smollm", true, nullptr, false, false, false},
    {"llama-bpe", false, kLlama3Pattern, false, true, true},
    {"qwen2", false, kQwen2Pattern, true, false, false},
};

const PreTokenizer& pre_tokenizer_of(const GgufFile& file) {
  const std::string_view name = file.string("tokenizer.ggml.pre");
  std::string known;
  for (const PreTokenizer& pre : kPreTokenizers) {
    if (name == pre.gguf_name) return pre;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", pre.gguf_name);
  }
  throw_bad_input(file.place() + ": tokenizer.ggml.pre", "one of " + known, quote_name(name));
}

Json pre_tokenizer_json(const PreTokenizer& pre) {
  Json steps = Json::array();
  if (pre.splits_digits) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  if (pre.pattern != nullptr) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", pre.pattern}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  steps.push_back({{"type", "ByteLevel"},
                   {"add_prefix_space", false},
                   {"trim_offsets", true},
                   {"use_regex", pre.pattern == nullptr}});
  if (steps.size() == 1) return steps[0];
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

// tokenizer.ggml.token_type's values.
enum class TokenKind : std::int64_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
};

class Vocabulary {
 public:
  Vocabulary(const GgufFile& file, std::int64_t vocab_size)
      : place_(file.place()),
        tokens_(file.strings("tokenizer.ggml.tokens")),
        merges_(file.strings("tokenizer.ggml.merges")) {
    if (tokens_.empty() || static_cast<std::int64_t>(tokens_.size()) > vocab_size) {
      throw_bad_input(place_ + ": tokenizer.ggml.tokens",
                      fmt::format("1 to {} tokens, as the embedding has rows", vocab_size),
                      fmt::format("{}", tokens_.size()));
    }
    read_kinds(file);
    check_unique();
    check_merges();
  }

  // The id that `key` holds. Throws Error(kBadInput) when there is no such token.
  std::int64_t checked_id(const GgufFile& file, const char* key) const {
    const std::int64_t id = file.integer(key);
    if (id >= static_cast<std::int64_t>(tokens_.size())) {
      throw_bad_input(fmt::format("{}: {}", place_, key),
                      fmt::format("an id below {}", tokens_.size()), fmt::format("{}", id));
    }
    return id;
  }
  std::string token_of(const GgufFile& file, const char* key) const {
    return std::string(tokens_[static_cast<std::size_t>(checked_id(file, key))]);
  }

  Json added_tokens() const {
    Json added = Json::array();
    for (std::size_t id = 0; id < tokens_.size(); ++id) {
      if (!is_added(id)) continue;
      added.push_back({{"id", id},
                       {"content", tokens_[id]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", kinds_[id] != TokenKind::kUserDefined}});
    }
    return added;
  }

  // Added tokens that directly follow all others are left to added_tokens alone, as in the
  // tokenizers of Llama 3 and Qwen; the others need their place here to keep their ids.
  Json vocab() const {
    Json vocab = Json::object();
    const std::size_t end = added_tail();
    for (std::size_t id = 0; id < tokens_.size(); ++id) {
      if (kinds_[id] == TokenKind::kUnused || (id >= end && is_added(id))) continue;
      append_member(vocab, std::string(tokens_[id]), id);
    }
    return vocab;
  }

  Json merges() const {
    Json merges = Json::array();
    for (const std::string_view merge : merges_) merges.push_back(merge);
    return merges;
  }

 private:
  bool is_added(std::size_t id) const {
    return kinds_[id] != TokenKind::kNormal && kinds_[id] != TokenKind::kUnused;
  }

  // Where the added tokens begin behind which only added and then unused ones follow, while
  // all before are in use; the number of tokens when there is no such place.
  std::size_t added_tail() const {
    std::size_t end = tokens_.size();
    while (end > 0 && kinds_[end - 1] == TokenKind::kUnused) --end;
    std::size_t begin = end;
    while (begin > 0 && is_added(begin - 1)) --begin;
    for (std::size_t id = 0; id < begin; ++id) {
      if (kinds_[id] == TokenKind::kUnused) return tokens_.size();
    }
    return begin;
  }

  void read_kinds(const GgufFile& file) {
    constexpr const char* kKey = "tokenizer.ggml.token_type";
    const std::vector<std::int64_t> kinds = file.integers(kKey);
    if (kinds.size() != tokens_.size()) {
      throw_bad_input(fmt::format("{}: {}", place_, kKey),
                      fmt::format("{} kinds, one a token", tokens_.size()),
                      fmt::format("{}", kinds.size()));
    }
    for (std::size_t id = 0; id < kinds.size(); ++id) {
      if (kinds[id] < static_cast<std::int64_t>(TokenKind::kNormal) ||
          kinds[id] > static_cast<std::int64_t>(TokenKind::kUnused)) {
        throw_bad_input(fmt::format("{}: {}[{}]", place_, kKey, id), "a kind from 1 to 5",
                        fmt::format("{}", kinds[id]));
      }
      kinds_.push_back(static_cast<TokenKind>(kinds[id]));
    }
  }

  void check_unique() {
    for (std::size_t id = 0; id < tokens_.size(); ++id) {
      if (kinds_[id] == TokenKind::kUnused || known_.insert(tokens_[id]).second) continue;
      throw_bad_input(place_ + ": tokenizer.ggml.tokens", "each token once",
                      fmt::format("{} twice", quote_name(tokens_[id])));
    }
  }

  void check_merges() const {
    for (std::size_t i = 0; i < merges_.size(); ++i) {
      const std::string_view merge = merges_[i];
      const std::size_t space = merge.find(' ');
      if (space != std::string_view::npos) {
        const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
        const std::string merged = std::string(left) + std::string(right);
        if (known_.count(left) != 0 && known_.count(right) != 0 && known_.count(merged) != 0) {
          continue;
        }
      }
      throw_bad_input(fmt::format("{}: tokenizer.ggml.merges[{}]", place_, i),
                      "two tokens whose union is a token", quote_name(merge));
    }
  }

  std::string place_;
  std::vector<std::string_view> tokens_, merges_;
  std::vector<TokenKind> kinds_;
  std::unordered_set<std::string_view> known_;
};

bool flag_or(const GgufFile& file, const char* key, bool fallback) {
  return file.has(key) ? file.boolean(key) : fallback;
}

// Puts the beginning and end tokens around a text; null when nothing is added.
Json post_processor_json(const GgufFile& file, const Vocabulary& vocabulary,
                         const PreTokenizer& pre) {
  const bool adds_bos = flag_or(file, "tokenizer.ggml.add_bos_token", pre.adds_bos);
  const bool adds_eos = flag_or(file, "tokenizer.ggml.add_eos_token", false);
  if (!adds_bos && !adds_eos) return nullptr;
  Json special_tokens = Json::object();
  const auto special = [&](const char* key, int type_id) -> Json {
    const std::string token = vocabulary.token_of(file, key);
    special_tokens[token] = {
        {"id", token}, {"ids", Json::array({file.integer(key)})}, {"tokens", Json::array({token})}};
    return {{"SpecialToken", {{"id", token}, {"type_id", type_id}}}};
  };
  const auto around = [&](const char* sequence, int type_id) {
    Json parts = Json::array();
    if (adds_bos) parts.push_back(special(kBosKey, type_id));
    parts.push_back({{"Sequence", {{"id", sequence}, {"type_id", type_id}}}});
    if (adds_eos) parts.push_back(special(kEosKey, type_id));
    return parts;
  };
  const Json single = around("A", 0);
  Json pair = single;
  for (const Json& part : around("B", 1)) pair.push_back(part);
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", pair},
          {"special_tokens", special_tokens}};
}

Json tokenizer_config_json(const GgufFile& file, const Vocabulary& vocabulary) {
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"clean_up_tokenization_spaces", false}};
  constexpr std::pair<const char*, const char*> kSpecial[] = {
      {"bos_token", kBosKey},
      {"eos_token", kEosKey},
      {"unk_token", "tokenizer.ggml.unknown_token_id"},
      {"pad_token", kPadKey},
  };
  for (const auto& [name, key] : kSpecial) {
    if (file.has(key)) config[name] = vocabulary.token_of(file, key);
  }
  if (file.has("tokenizer.chat_template")) {
    config["chat_template"] = file.string("tokenizer.chat_template");
  }
  return config;
}

// Generation ends at any of the tokens that end a text or a turn.
Json generation_config_json(const GgufFile& file, const Vocabulary& vocabulary) {
  constexpr const char* kEnds[] = {kEosKey, "tokenizer.ggml.eot_token_id",
                                   "tokenizer.ggml.eom_token_id"};
  Json config = Json::object(), ends = Json::array();
  for (const char* key : kEnds) {
    if (!file.has(key)) continue;
    const Json id = vocabulary.checked_id(file, key);
    if (std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  }
  if (file.has(kBosKey)) config["bos_token_id"] = vocabulary.checked_id(file, kBosKey);
  if (!ends.empty()) config["eos_token_id"] = ends.size() == 1 ? ends[0] : ends;
  if (file.has(kPadKey)) config["pad_token_id"] = vocabulary.checked_id(file, kPadKey);
  return config;
}

}  // namespace

GgufTokenizer map_gguf_tokenizer(const GgufFile& file, std::int64_t vocab_size) {
  const std::string_view model = file.string("tokenizer.ggml.model");
  if (model != "gpt2") {
    throw_bad_input(file.place() + ": tokenizer.ggml.model", "gpt2 (byte-level BPE)",
                    quote_name(model));
  }
  const PreTokenizer& pre = pre_tokenizer_of(file);
  const Vocabulary vocabulary(file, vocab_size);
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", true},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  GgufTokenizer out;
  out.tokenizer = {{"version", "1.0"},
                   {"truncation", nullptr},
                   {"padding", nullptr},
                   {"added_tokens", vocabulary.added_tokens()},
                   {"normalizer", pre.normalizes ? Json({{"type", "NFC"}}) : Json(nullptr)},
                   {"pre_tokenizer", pre_tokenizer_json(pre)},
                   {"post_processor", post_processor_json(file, vocabulary, pre)},
                   {"decoder", byte_level},
                   {"model",
                    {{"type", "BPE"},
                     {"dropout", nullptr},
                     {"unk_token", nullptr},
                     {"continuing_subword_prefix", ""},
                     {"end_of_word_suffix", ""},
                     {"fuse_unk", false},
                     {"byte_fallback", false},
                     {"ignore_merges", pre.ignores_merges},
                     {"vocab", vocabulary.vocab()},
                     {"merges", vocabulary.merges()}}}};
  out.tokenizer_config = tokenizer_config_json(file, vocabulary);
  out.generation_config = generation_config_json(file, vocabulary);
  return out;
}

}  // namespace loza
