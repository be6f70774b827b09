// Broken and unsupported tokenizer.json files: each is one Error(kBadInput) that names the
// place.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "loza/base/error.h"
#include "tests/tokenizer/tiny_tokenizer.h"

namespace loza {
namespace {

// What is wrong, and a part of the place that the error must name.
struct Case {
  std::string name, place;
  std::string json;
};

// A good file with one thing changed at a JSON pointer.
Case changed(const char* pointer, const Json& value, const std::string& place) {
  TinyTokenizer tiny;
  tiny.add_merge("a", "b");
  tiny.add_special("<end>");
  tiny.file[Json::json_pointer(pointer)] = value;
  return {std::string(pointer) + " = " + value.dump().substr(0, 60), place, tiny.file.dump()};
}

Case edited(const std::string& name, const std::string& place,
            const std::function<void(TinyTokenizer&)>& edit) {
  TinyTokenizer tiny;
  tiny.add_merge("a", "b");
  tiny.add_special("<end>");
  edit(tiny);
  return {name, place, tiny.file.dump()};
}

Case without(const char* parent, const char* name, const std::string& place) {
  return edited(std::string("no ") + parent + "/" + name, place,
                [&](TinyTokenizer& tiny) { tiny.file[Json::json_pointer(parent)].erase(name); });
}

std::vector<Case> broken_texts() {
  const std::string good = TinyTokenizer().file.dump();
  return {
      {"empty", "t.json", ""},
      {"not JSON", "t.json", "vocab"},
      {"cut off", "t.json", good.substr(0, good.size() / 2)},
      {"something behind", "t.json", good + "x"},
      {"array", "t.json", "[]"},
      {"null", "t.json", "null"},
      {"not UTF-8", "t.json", good + "\xFF"},
      {"UTF-16", "t.json", std::string("\xFF\xFE{\0}\0", 6)},
      {"deep", "t.json", std::string(100'000, '[')},
      {"a name twice", "t.json", R"({"version": "1.0", "version": "1.0"})"},
      {"a token twice", "t.json", R"({"model": {"vocab": {"a": 0, "a": 1}, "merges": []}})"},
      {"lone surrogate", "t.json", R"({"model": {"vocab": {"\ud800": 0}, "merges": []}})"},
      {"empty object", "pre_tokenizer", "{}"},
  };
}

std::vector<Case> broken_frames() {
  return {
      changed("/version", "2.0", "version"),
      changed("/version", 1, "version"),
      changed("/surprise", 1, "t.json"),
      changed("/normalizer", "NFC", "normalizer"),
      changed("/normalizer", {{"type", "NFKC"}}, "normalizer"),
      changed("/normalizer", {{"type", "Lowercase"}}, "normalizer"),
      changed("/normalizer", {{"type", "NFC"}, {"x", 1}}, "normalizer"),
      changed("/normalizer", {{"type", "Sequence"}}, "normalizer"),
      changed("/normalizer", {{"type", "Sequence"}, {"normalizers", 1}}, "normalizers"),
      changed("/normalizer", Json::parse(R"({"type": "Sequence", "normalizers": [{"type": "NFC"},
              {"type": "Strip"}]})"),
              "normalizers[1]"),
      changed("/normalizer", {{"kind", "NFC"}}, "normalizer"),
      changed("/decoder", nullptr, "decoder"),
      changed("/decoder", {{"type", "WordPiece"}}, "decoder"),
      changed("/decoder", {{"type", "Sequence"}, {"decoders", Json::array()}}, "decoder"),
      changed("/decoder", Json::parse(R"({"type": "Sequence", "decoders": [{"type": "Fuse"},
              {"type": "ByteLevel"}]})"),
              "decoders[0]"),
      changed("/decoder", Json::parse(R"({"type": "Sequence", "decoders": [{"type": "ByteLevel"},
              {"type": "Strip"}]})"),
              "decoders[1]"),
      changed("/post_processor", {{"type", "BertProcessing"}}, "post_processor"),
      changed("/post_processor", 7, "post_processor"),
      changed("/post_processor", {{"type", "Sequence"}, {"processors", {1}}}, "processors[0]"),
  };
}

std::vector<Case> broken_pre_tokenizers() {
  const auto sequence = [](const char* steps) {
    return changed("/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", Json::parse(steps)}},
                   "pre_tokenizer");
  };
  const auto split = [](const Json& changes, const std::string& place) {
    Json step = {{"type", "Split"},
                 {"pattern", {{"Regex", "a"}}},
                 {"behavior", "Isolated"},
                 {"invert", false}};
    step.update(changes);
    return edited("split " + changes.dump().substr(0, 60), place,
                  [&](TinyTokenizer& tiny) { tiny.pre_tokenize({step}); });
  };
  std::string nested = R"({"type": "Punctuation"})";
  for (int i = 0; i < 30; ++i)
    nested = R"({"type": "Sequence", "pretokenizers": [)" + nested + "]}";
  return {
      changed("/pre_tokenizer", nullptr, "pre_tokenizer"),
      changed("/pre_tokenizer", "ByteLevel", "pre_tokenizer"),
      changed("/pre_tokenizer", {{"type", "Whitespace"}}, "pre_tokenizer"),
      changed("/pre_tokenizer", {{"type", "Metaspace"}}, "pre_tokenizer"),
      changed("/pre_tokenizer", {{"type", 3}}, "pre_tokenizer"),
      changed("/pre_tokenizer", Json::parse(nested), "pre_tokenizer"),
      changed("/pre_tokenizer/add_prefix_space", 1, "add_prefix_space"),
      changed("/pre_tokenizer/use_regex", "yes", "use_regex"),
      changed("/pre_tokenizer/extra", true, "pre_tokenizer"),
      without("/pre_tokenizer", "add_prefix_space", "pre_tokenizer"),
      sequence("[]"),
      sequence("{}"),
      sequence("[null]"),
      sequence(R"([{"type": "Digits", "individual_digits": true}])"),
      sequence(R"([{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
                   {"type": "Digits", "individual_digits": true}])"),
      sequence(R"([{"type": "Digits"}])"),
      sequence(R"([{"type": "Digits", "individual_digits": "true"}])"),
      split({{"pattern", "a"}}, "pattern"),
      split({{"pattern", Json::object()}}, "pattern"),
      split({{"pattern", {{"Regex", 1}}}}, "pattern.Regex"),
      split({{"pattern", {{"Regex", "a"}, {"String", "a"}}}}, "pattern"),
      split({{"pattern", {{"Glob", "a"}}}}, "pattern"),
      split({{"pattern", {{"Regex", "("}}}}, "pattern"),
      split({{"pattern", {{"Regex", "[a"}}}}, "pattern"),
      split({{"pattern", {{"Regex", "*a"}}}}, "pattern"),
      split({{"pattern", {{"Regex", "\\p{Nonsense}"}}}}, "pattern"),
      split({{"pattern", {{"Regex", "(?<n>a)\\k<m>"}}}}, "pattern"),
      split({{"pattern", {{"Regex", std::string(20'000, 'a')}}}}, "pattern"),
      split({{"pattern", {{"Regex", std::string(9'000, '(') + std::string(7'000, ')')}}}},
            "pattern"),
      split({{"behavior", "Isolate"}}, "behavior"),
      split({{"behavior", nullptr}}, "behavior"),
      split({{"invert", nullptr}}, "invert"),
      split({{"unknown", 1}}, "pretokenizers[0]"),
  };
}

std::vector<Case> broken_models() {
  return {
      changed("/model", nullptr, "model"),
      changed("/model", Json::array(), "model"),
      changed("/model/type", "Unigram", "model"),
      changed("/model/type", "WordPiece", "model"),
      changed("/model/type", nullptr, "model"),
      changed("/model/dropout", 0.1, "dropout"),
      changed("/model/dropout", "0", "dropout"),
      changed("/model/continuing_subword_prefix", "##", "continuing_subword_prefix"),
      changed("/model/end_of_word_suffix", "</w>", "end_of_word_suffix"),
      changed("/model/end_of_word_suffix", 1, "end_of_word_suffix"),
      changed("/model/fuse_unk", 1, "fuse_unk"),
      changed("/model/byte_fallback", "no", "byte_fallback"),
      changed("/model/ignore_merges", 0, "ignore_merges"),
      changed("/model/unk_token", 0, "unk_token"),
      changed("/model/new_option", true, "model"),
      without("/model", "vocab", "model"),
      without("/model", "merges", "model"),
      changed("/model/vocab", Json::array(), "vocab"),
      changed("/model/vocab", Json::object(), "vocab"),
      changed("/model/vocab/zz", -1, "vocab"),
      changed("/model/vocab/zz", 1.5, "vocab"),
      changed("/model/vocab/zz", "7", "vocab"),
      changed("/model/vocab/zz", nullptr, "vocab"),
      changed("/model/vocab/zz", 1e308, "vocab"),
      changed("/model/vocab/zz", std::uint64_t{1} << 31, "vocab"),
      changed("/model/vocab/zz", ~std::uint64_t{0}, "vocab"),
      changed("/model/vocab/zz", 65, "vocab"),
      changed("/model/merges", "a b", "merges"),
      changed("/model/merges/0", "ab", "merges[0]"),
      changed("/model/merges/0", "a  b", "merges[0]"),
      changed("/model/merges/0", "a b c", "merges[0]"),
      changed("/model/merges/0", {"a"}, "merges[0]"),
      changed("/model/merges/0", {"a", "b", "c"}, "merges[0]"),
      changed("/model/merges/0", {"a", 1}, "merges[0]"),
      changed("/model/merges/0", nullptr, "merges[0]"),
      changed("/model/merges/0", "a zz", "merges[0]"),
      changed("/model/merges/0", "zz a", "merges[0]"),
      changed("/model/merges/0", "b a", "merges[0]"),  // both are there, "ba" is not
  };
}

std::vector<Case> broken_added_tokens() {
  return {
      changed("/added_tokens", "<end>", "added_tokens"),
      changed("/added_tokens", Json::object(), "added_tokens"),
      changed("/added_tokens/0", "<end>", "added_tokens[0]"),
      changed("/added_tokens/0", Json::array(), "added_tokens[0]"),
      changed("/added_tokens/0/id", -1, "added_tokens[0].id"),
      changed("/added_tokens/0/id", "257", "added_tokens[0].id"),
      changed("/added_tokens/0/id", 1e308, "added_tokens[0].id"),
      changed("/added_tokens/0/id", std::uint64_t{1} << 63, "added_tokens[0].id"),
      changed("/added_tokens/0/id", 65, "<end>"),   // another token's
      changed("/added_tokens/0/id", 300, "<end>"),  // leaves a hole
      changed("/added_tokens/0/content", "", "added_tokens[0].content"),
      changed("/added_tokens/0/content", 5, "added_tokens[0].content"),
      changed("/added_tokens/0/content", std::string(5000, 'x'), "added_tokens[0].content"),
      changed("/added_tokens/0/content", "a", "\"a\""),  // has another id in the vocabulary
      changed("/added_tokens/0/special", 1, "added_tokens[0].special"),
      changed("/added_tokens/0/lstrip", nullptr, "added_tokens[0]"),
      changed("/added_tokens/0/priority", 1, "added_tokens[0]"),
      without("/added_tokens/0", "id", "added_tokens[0]"),
      without("/added_tokens/0", "content", "added_tokens[0]"),
      without("/added_tokens/0", "single_word", "added_tokens[0]"),
      without("/added_tokens/0", "lstrip", "added_tokens[0]"),
      without("/added_tokens/0", "rstrip", "added_tokens[0]"),
      without("/added_tokens/0", "normalized", "added_tokens[0]"),
      without("/added_tokens/0", "special", "added_tokens[0]"),
      edited("an added token twice", "added_tokens[1]",
             [](TinyTokenizer& tiny) {
               tiny.file["added_tokens"].push_back(tiny.file["added_tokens"][0]);
             }),
      edited("an id twice", "added_tokens[1]",
             [](TinyTokenizer& tiny) {
               tiny.add_token("<x>", {{"id", 257}});
             }),
      edited("the same when composed", "added token",
             [](TinyTokenizer& tiny) {
               tiny.file["normalizer"] = {{"type", "NFC"}};
               tiny.add_token("\xC3\xA9", {{"normalized", true}});
               tiny.add_token("e\xCC\x81", {{"normalized", true}});
             }),
  };
}

TEST(HostileTokenizer, EachIsOneErrorThatNamesThePlace) {
  int cases = 0;
  for (const auto& make :
       {broken_texts, broken_frames, broken_pre_tokenizers, broken_models, broken_added_tokens}) {
    for (const Case& c : make()) {
      ++cases;
      try {
        Tokenizer::from_json(c.json, "t.json");
        ADD_FAILURE() << "accepted: " << c.name;
      } catch (const Error& error) {
        const std::string line = error.what();
        EXPECT_EQ(error.code(), ExitCode::kBadInput) << c.name;
        EXPECT_EQ(line.rfind("t.json", 0), 0u) << line;
        EXPECT_NE(error.text().place.find(c.place), std::string::npos) << c.name << ": " << line;
        EXPECT_EQ(line.find('\n'), std::string::npos) << line;
        EXPECT_LT(line.size(), 1000u) << c.name;
      }
    }
  }
  EXPECT_GE(cases, 80);
  std::printf("hostile tokenizer.json: %d\n", cases);
}

TEST(HostileTokenizer, WhatIsOddButFineLoads) {
  TinyTokenizer tiny;
  tiny.add_merge("a", "b");
  tiny.file["model"].erase("type");  // as in GPT-2's file
  tiny.file["model"]["continuing_subword_prefix"] = "";
  tiny.file["model"]["end_of_word_suffix"] = "";
  tiny.file["model"]["dropout"] = 0.0;
  tiny.file["model"]["merges"].insert(tiny.file["model"]["merges"].begin(), "#version: 0.2");
  tiny.file["model"]["vocab"][""] = 300;
  tiny.file["truncation"] = {{"max_length", 3}};
  tiny.file["padding"] = {{"strategy", "BatchLongest"}};
  tiny.file["normalizer"] = Json::parse(R"({"type": "Sequence", "normalizers": []})");
  tiny.file["post_processor"] = Json::parse(
      R"({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing"}]})");
  tiny.file["decoder"] =
      Json::parse(R"({"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "Fuse"}]})");
  const Tokenizer tokenizer = tiny.make();
  EXPECT_EQ(tokenizer.encode("abcab"), (std::vector<std::int64_t>{256, 'c', 256}));
  EXPECT_EQ(tokenizer.vocab_size(), 301);
}

}  // namespace
}  // namespace loza
