#pragma once

#include <string>
#include <vector>

#include "loza/base/json.h"
#include "loza/base/utf8.h"
#include "loza/tokenizer/byte_alphabet.h"
#include "loza/tokenizer/tokenizer.h"

namespace loza {

// `text` as a byte-level vocabulary spells it.
inline std::string spell(const std::string& text) {
  std::string spelling;
  for (const char c : text) append_utf8(spelling, byte_to_char(static_cast<unsigned char>(c)));
  return spelling;
}

// A tokenizer.json whose ids are: the byte's value for each byte, then what the merges make,
// then the added tokens.
struct TinyTokenizer {
  Json file = Json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                      "use_regex": true},
    "post_processor": null,
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null,
              "continuing_subword_prefix": null, "end_of_word_suffix": null,
              "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
              "vocab": {}, "merges": []}})");
  std::int64_t next_id = 0;

  TinyTokenizer() {
    for (int byte = 0; byte < 256; ++byte) add_word(std::string(1, static_cast<char>(byte)));
  }

  std::int64_t add_word(const std::string& text) {
    file["model"]["vocab"][spell(text)] = next_id;
    return next_id++;
  }
  // The id of left + right, which is added unless it is there.
  std::int64_t add_merge(const std::string& left, const std::string& right) {
    file["model"]["merges"].push_back({spell(left), spell(right)});
    const Json& vocab = file["model"]["vocab"];
    const auto it = vocab.find(spell(left + right));
    return it != vocab.end() ? it->get<std::int64_t>() : add_word(left + right);
  }
  std::int64_t add_token(const std::string& content, const Json& flags = Json::object()) {
    const auto it = file["model"]["vocab"].find(content);
    Json token = {{"id", it != file["model"]["vocab"].end() ? it->get<std::int64_t>() : next_id++},
                  {"content", content},
                  {"single_word", false},
                  {"lstrip", false},
                  {"rstrip", false},
                  {"normalized", false},
                  {"special", false}};
    token.update(flags);
    file["added_tokens"].push_back(token);
    return token["id"].get<std::int64_t>();
  }
  std::int64_t add_special(const std::string& content) {
    return add_token(content, {{"special", true}});
  }
  void pre_tokenize(const std::vector<Json>& steps) {
    Json list = steps;
    list.push_back({{"type", "ByteLevel"},
                    {"add_prefix_space", false},
                    {"trim_offsets", true},
                    {"use_regex", false}});
    file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", list}};
  }

  Tokenizer make() const { return Tokenizer::from_json(file.dump(), "tokenizer.json"); }
};

}  // namespace loza
