#include "loza/tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <deque>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/base/json.h"
#include "loza/base/utf8.h"
#include "loza/tokenizer/added_tokens.h"
#include "loza/tokenizer/bpe.h"
#include "loza/tokenizer/byte_alphabet.h"
#include "loza/tokenizer/fields.h"
#include "loza/tokenizer/pre_tokenizer.h"
#include "loza/tokenizer/unicode.h"
#include "loza/tokenizer/word_cache.h"

namespace loza {
namespace {

constexpr std::uint64_t kMaxFileBytes = std::uint64_t{64} << 20;
constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;  // the regular expressions count in int

// The members of a Sequence, its nested ones included; one that is no Sequence stands alone.
void flatten(const Json& value, const std::string& place, const char* members_name,
             std::vector<std::pair<const Json*, std::string>>& members) {
  if (type_of(value, place) != "Sequence") {
    members.emplace_back(&value, place);
    return;
  }
  const Fields fields(value, place, {"type", members_name});
  const Json& list = fields.need(members_name);
  if (!list.is_array()) {
    throw_bad_input(fields.place_of(members_name), "an array", describe_json(list));
  }
  for (std::size_t i = 0; i < list.size(); ++i) {
    flatten(list[i], fmt::format("{}.{}[{}]", place, members_name, i), members_name, members);
  }
}

void expect_type(const Json& value, const std::string& place,
                 std::initializer_list<std::string_view> allowed) {
  const std::string type = type_of(value, place);
  if (std::find(allowed.begin(), allowed.end(), type) == allowed.end()) {
    throw_bad_input(place, fmt::format("a type among {}", fmt::join(allowed, ", ")),
                    describe_json(type), "others are not supported");
  }
}

// Whether the text is to be composed. The only normaliser that is known.
bool read_normalizer(const Json* value, const std::string& place) {
  if (value == nullptr) return false;
  std::vector<std::pair<const Json*, std::string>> members;
  flatten(*value, place, "normalizers", members);
  for (const auto& [member, here] : members) {
    expect_type(*member, here, {"NFC"});
    Fields(*member, here, {"type"});
  }
  return !members.empty();
}

// ByteLevel, perhaps with Fuses behind it, which change nothing then.
void check_decoder(const Json* value, const std::string& place) {
  if (value == nullptr) throw_bad_input(place, "a ByteLevel decoder", "none");
  std::vector<std::pair<const Json*, std::string>> members;
  flatten(*value, place, "decoders", members);
  for (std::size_t i = 0; i < members.size(); ++i) {
    expect_type(*members[i].first, members[i].second, {i == 0 ? "ByteLevel" : "Fuse"});
  }
  if (members.empty()) throw_bad_input(place, "a ByteLevel decoder", "none");
}

// Post-processors put tokens in front and behind, which encode() never does.
void check_post_processor(const Json* value, const std::string& place) {
  if (value == nullptr) return;
  std::vector<std::pair<const Json*, std::string>> members;
  flatten(*value, place, "processors", members);
  for (const auto& [member, here] : members) {
    expect_type(*member, here, {"TemplateProcessing", "ByteLevel"});
  }
}

// bos_token and the like: a string, or an object whose content it is. -1 where there is none.
std::int64_t configured_id(const Json& config, const char* name, const std::string& place,
                           const Tokenizer& tokenizer) {
  if (!config.is_object()) throw_bad_input(place, "an object", describe_json(config));
  const std::string here = fmt::format("{}: {}", place, name);
  const auto it = config.find(name);
  if (it == config.end() || it->is_null()) return -1;
  const Json& token = it->is_object() && it->contains("content") ? (*it)["content"] : *it;
  if (!token.is_string()) throw_bad_input(here, "a token", describe_json(*it));
  const std::int64_t id = tokenizer.token_to_id(token.get<std::string>());
  if (id < 0) throw_bad_input(here, "a token of tokenizer.json", describe_json(token));
  return id;
}

}  // namespace

struct Tokenizer::Impl {
  // What an id is when text is made of it.
  struct Spelling {
    std::string bytes;
    bool is_special = false;
  };

  Impl(const Fields& fields, const std::string& place)
      : composes(read_normalizer(fields.find("normalizer"), place + ": normalizer")),
        pre_tokenizer(fields.find("pre_tokenizer"), place + ": pre_tokenizer"),
        model(fields.need("model"), place + ": model") {
    check_decoder(fields.find("decoder"), place + ": decoder");
    check_post_processor(fields.find("post_processor"), place + ": post_processor");
    for (const auto& [token, id] : model.vocabulary()) spell(token, id, /*is_special=*/false);
    if (const Json* added = fields.find("added_tokens")) add_tokens(*added, place);
  }

  std::string normalize(std::string_view text) const {
    return composes ? to_nfc(text) : std::string(text);
  }

  // A token that is spelled in the alphabet of bytes stands for them, an added one too: so
  // does Hugging Face's decoder read it.
  void spell(const std::string& token, std::int64_t id, bool is_special) {
    auto bytes = spelled_bytes(token);
    spellings[id] = {bytes ? std::move(*bytes) : token, is_special};
    vocab_size = std::max(vocab_size, id + 1);
  }

  void add_tokens(const Json& value, const std::string& place) {
    added = read_added_tokens(value, place + ": added_tokens");
    next_added_id = std::ssize(model.vocabulary());
    for (const AddedToken& token : added) add_token(token, place);
  }

  void add_token(const AddedToken& token, const std::string& place) {
    const std::string here = fmt::format("{}: added token {}", place, Json(token.content).dump());
    // Hugging Face's tokenizers give an id of their own where the file's is another.
    const auto in_model = model.vocabulary().find(token.content);
    const std::int64_t expected =
        in_model != model.vocabulary().end() ? in_model->second : next_added_id++;
    const bool is_taken = in_model == model.vocabulary().end() && spellings.contains(expected);
    if (token.id != expected || is_taken) {
      throw_bad_input(here, fmt::format("the id {}, after those before it", expected),
                      fmt::format("{}", token.id));
    }
    const std::string spelling = token.normalized ? normalize(token.content) : token.content;
    if (!(token.normalized ? normalized_matcher : plain_matcher).add(spelling, token)) {
      throw_bad_input(here, "a spelling of its own", "another token's, when normalised");
    }
    spell(spelling, token.id, token.special);
    if (token.special) control_ids.insert(token.id);
    added_ids.emplace(token.content, token.id);
  }

  // Whole characters and the bytes between them that belong to none.
  void encode(std::string_view text, Special special, std::vector<std::int64_t>& ids) {
    while (!text.empty()) {
      const std::size_t valid = utf8_error(text);
      encode_text(text.substr(0, valid), special, ids);
      text.remove_prefix(valid);
      std::size_t invalid = 0;
      while (invalid < text.size() && !utf8_at(text, invalid).valid) ++invalid;
      if (invalid > 0) encode_word(text.substr(0, invalid), special, ids);
      text.remove_prefix(invalid);
    }
  }

  void encode_words(std::string_view text, Special special, std::vector<std::int64_t>& ids) {
    std::deque<std::string> made;
    for (const std::string_view word : pre_tokenizer.words(text, made)) {
      encode_word(word, special, ids);
    }
  }

  void encode_word(std::string_view word, Special special, std::vector<std::int64_t>& ids) {
    WordCache& cache = caches[static_cast<std::size_t>(special)];
    if (cache.append(word, ids)) return;
    static const std::unordered_set<std::int64_t> kNone;
    std::vector<std::int64_t> word_ids;
    model.encode_word(word, special == Special::kAsText ? control_ids : kNone, word_ids);
    cache.remember(word, word_ids);
    ids.insert(ids.end(), word_ids.begin(), word_ids.end());
  }

  // REQUIRES: text is UTF-8.
  void encode_text(std::string_view text, Special special, std::vector<std::int64_t>& ids) {
    const bool skip_special = special == Special::kAsText;
    for (const TextPart& part : plain_matcher.split(text, skip_special)) {
      if (part.id >= 0) {
        ids.push_back(part.id);
        continue;
      }
      const std::string composed = composes ? to_nfc(part.text) : std::string();
      const std::string_view normalized = composes ? composed : part.text;
      for (const TextPart& inner : normalized_matcher.split(normalized, skip_special)) {
        if (inner.id >= 0) {
          ids.push_back(inner.id);
        } else {
          encode_words(inner.text, special, ids);
        }
      }
    }
  }

  bool composes;
  PreTokenizer pre_tokenizer;
  BpeModel model;
  std::vector<AddedToken> added;
  SpellingMatcher plain_matcher, normalized_matcher;
  std::unordered_map<std::string, std::int64_t> added_ids;
  std::unordered_map<std::int64_t, Spelling> spellings;
  std::unordered_set<std::int64_t> control_ids;
  std::int64_t next_added_id = 0, vocab_size = 0, bos_id = -1, eos_id = -1;
  std::array<WordCache, 2> caches;  // by Special
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::from_json(std::string_view tokenizer_json, const std::string& place) {
  const Json file = parse_json(tokenizer_json, place);
  const Fields fields(file, place,
                      {"version", "truncation", "padding", "added_tokens", "normalizer",
                       "pre_tokenizer", "post_processor", "decoder", "model"},
                      ": ");
  if (fields.string_or("version", "1.0") != "1.0") {
    throw_bad_input(fields.place_of("version"), "1.0", describe_json(fields.need("version")));
  }
  return Tokenizer(std::make_unique<Impl>(fields, place));
}

Tokenizer Tokenizer::from_folder(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "tokenizer.json";
  Tokenizer tokenizer = from_json(read_file(path, kMaxFileBytes), path.string());
  const std::filesystem::path config_path = folder / "tokenizer_config.json";
  if (std::filesystem::exists(config_path)) {
    const std::string place = config_path.string();
    const Json config = parse_json(read_file(config_path, kMaxFileBytes), place);
    tokenizer.impl_->bos_id = configured_id(config, "bos_token", place, tokenizer);
    tokenizer.impl_->eos_id = configured_id(config, "eos_token", place, tokenizer);
  }
  return tokenizer;
}

std::vector<std::int64_t> Tokenizer::encode(std::string_view text, Special special) const {
  if (text.size() > kMaxTextBytes) {
    throw_bad_input("text to encode", fmt::format("at most {} bytes", kMaxTextBytes),
                    fmt::format("{}", text.size()), "encode it in parts");
  }
  std::vector<std::int64_t> ids;
  impl_->encode(text, special, ids);
  return ids;
}

std::string Tokenizer::decode(const std::vector<std::int64_t>& ids, bool skip_special) const {
  std::string bytes;
  for (const std::int64_t id : ids) {
    const auto it = impl_->spellings.find(id);
    if (it == impl_->spellings.end()) {
      throw_bad_input("ids to decode", "ids of the vocabulary", fmt::format("{}", id));
    }
    if (!(skip_special && it->second.is_special)) bytes += it->second.bytes;
  }
  return bytes;
}

std::int64_t Tokenizer::vocab_size() const { return impl_->vocab_size; }

std::int64_t Tokenizer::token_to_id(std::string_view token) const {
  const std::string key(token);
  if (const auto it = impl_->added_ids.find(key); it != impl_->added_ids.end()) return it->second;
  const auto it = impl_->model.vocabulary().find(key);
  return it == impl_->model.vocabulary().end() ? -1 : it->second;
}

std::int64_t Tokenizer::bos_id() const { return impl_->bos_id; }
std::int64_t Tokenizer::eos_id() const { return impl_->eos_id; }

}  // namespace loza
