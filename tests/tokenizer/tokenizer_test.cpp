#include "loza/tokenizer/tokenizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <thread>
#include <vector>

#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/base/random.h"
#include "tests/tokenizer/tiny_tokenizer.h"

namespace loza {
namespace {

using Ids = std::vector<std::int64_t>;
using Special = Tokenizer::Special;

// The ids that TinyTokenizer gives to bytes that nothing merges.
Ids bytes_as_ids(const std::string& text) {
  Ids ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

Ids joined(std::initializer_list<Ids> parts) {
  Ids all;
  for (const Ids& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

TEST(Tokenizer, MergesByRankThenFromTheLeft) {
  TinyTokenizer tiny;
  const auto ab = tiny.add_merge("a", "b");
  const auto aa = tiny.add_merge("a", "a");
  const auto aab = tiny.add_merge("aa", "b");
  const Tokenizer tokenizer = tiny.make();
  EXPECT_EQ(tokenizer.encode("ab"), (Ids{ab}));
  EXPECT_EQ(tokenizer.encode("aab"), (Ids{'a', ab}));  // "a b" ranks before "aa b"
  EXPECT_EQ(tokenizer.encode("aaa"), (Ids{aa, 'a'}));
  EXPECT_EQ(tokenizer.encode("aaab"), (Ids{aa, ab}));
  EXPECT_EQ(tokenizer.encode(""), Ids{});
  EXPECT_EQ(tokenizer.decode({aab, ab, aa}), "aababaa");
  EXPECT_EQ(tokenizer.vocab_size(), 259);
}

// BPE as it is defined: look for the best pair, join it, begin again.
Ids naive_bpe(const std::string& word, const std::map<std::pair<Ids::value_type, Ids::value_type>,
                                                      std::pair<int, Ids::value_type>>& merges) {
  Ids ids = bytes_as_ids(word);
  for (;;) {
    int best_rank = -1;
    std::size_t best = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto it = merges.find({ids[i], ids[i + 1]});
      if (it != merges.end() && (best_rank < 0 || it->second.first < best_rank)) {
        best_rank = it->second.first;
        best = i;
      }
    }
    if (best_rank < 0) return ids;
    ids[best] = merges.at({ids[best], ids[best + 1]}).second;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

TEST(Tokenizer, MergesAsTheDefinitionDoes) {
  int cases = 0;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    TinyTokenizer tiny;
    std::vector<std::string> tokens = {"a", "b", "c"};
    std::map<std::pair<std::int64_t, std::int64_t>, std::pair<int, std::int64_t>> merges;
    std::map<std::string, std::int64_t> ids = {{"a", 'a'}, {"b", 'b'}, {"c", 'c'}};
    while (merges.size() < 40) {
      const std::string left = tokens[static_cast<std::size_t>(random.below(std::ssize(tokens)))];
      const std::string right = tokens[static_cast<std::size_t>(random.below(std::ssize(tokens)))];
      if (merges.contains({ids[left], ids[right]}) || left.size() + right.size() > 9) continue;
      const std::int64_t id = tiny.add_merge(left, right);
      merges[{ids[left], ids[right]}] = {static_cast<int>(merges.size()), id};
      if (ids.emplace(left + right, id).second) tokens.push_back(left + right);
    }
    const Tokenizer tokenizer = tiny.make();
    for (int trial = 0; trial < 100; ++trial, ++cases) {
      std::string word;
      const std::int64_t size = 1 + random.below(40);
      for (std::int64_t i = 0; i < size; ++i) word += static_cast<char>('a' + random.below(3));
      ASSERT_EQ(tokenizer.encode(word), naive_bpe(word, merges)) << word;
    }
  }
  EXPECT_EQ(cases, 4000);
}

TEST(Tokenizer, EveryByteComesBack) {
  const Tokenizer tokenizer = TinyTokenizer().make();
  Random random(3);
  for (int trial = 0; trial < 3000; ++trial) {
    std::string bytes;
    const std::int64_t size = random.below(40);
    const bool mostly_text = random.below(2) == 0;
    for (std::int64_t i = 0; i < size; ++i) {
      bytes += static_cast<char>(mostly_text && random.below(4) > 0 ? 'a' + random.below(26)
                                                                    : random.below(256));
    }
    for (const Special special : {Special::kAsText, Special::kAsControl}) {
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(bytes, special)), bytes);
    }
    EXPECT_EQ(tokenizer.encode(bytes), bytes_as_ids(bytes));
  }
}

TEST(Tokenizer, BrokenCharactersDontTouchTheirNeighbours) {
  TinyTokenizer tiny;
  const auto hi = tiny.add_merge("h", "i");
  const Tokenizer tokenizer = tiny.make();
  EXPECT_EQ(tokenizer.encode("hi\xFFhi"), (Ids{hi, 0xFF, hi}));
  EXPECT_EQ(tokenizer.encode("hi\xE4\xB8"), (Ids{hi, 0xE4, 0xB8}));
  EXPECT_EQ(tokenizer.encode("\xED\xA0\x80hi"), (Ids{0xED, 0xA0, 0x80, hi}));
}

TEST(Tokenizer, SpecialTokensAreTextUnlessAskedFor) {
  TinyTokenizer tiny;
  const auto end = tiny.add_special("<|im_end|>");
  const auto tool = tiny.add_token("<tool>");
  const Tokenizer tokenizer = tiny.make();
  EXPECT_EQ(tokenizer.encode("a<|im_end|>b", Special::kAsControl), (Ids{'a', end, 'b'}));
  EXPECT_EQ(tokenizer.encode("a<|im_end|>b"), bytes_as_ids("a<|im_end|>b"));
  EXPECT_EQ(tokenizer.encode("<tool><|im_end|>"), joined({{tool}, bytes_as_ids("<|im_end|>")}));
  EXPECT_EQ(tokenizer.decode({'a', end, 'b'}), "a<|im_end|>b");
  EXPECT_EQ(tokenizer.decode({'a', end, tool}, /*skip_special=*/true), "a<tool>");
  EXPECT_EQ(tokenizer.token_to_id("<|im_end|>"), end);
  EXPECT_EQ(tokenizer.token_to_id("<|im_start|>"), -1);
  EXPECT_EQ(tokenizer.token_to_id("a"), 'a');
}

// Ways for text to become a special token that do not go by its spelling: merges that lead
// to it, words that are looked up whole, and unknown or fallback tokens that are special.
TEST(Tokenizer, TextNeverBecomesASpecialToken) {
  for (const bool ignore_merges : {false, true}) {
    TinyTokenizer tiny;
    tiny.file["model"]["ignore_merges"] = ignore_merges;
    tiny.add_merge("e", "n");
    const auto end = tiny.add_merge("en", "d");
    const auto ending = tiny.add_merge("end", "s");
    EXPECT_EQ(tiny.add_token("end", {{"special", true}, {"single_word", true}}), end);
    const Tokenizer tokenizer = tiny.make();
    EXPECT_EQ(tokenizer.encode("end", Special::kAsControl), (Ids{end}));
    for (const char* text : {"end", " end", "endend", "ends", "the end.", "bend", "en d"}) {
      const Ids ids = tokenizer.encode(text);
      EXPECT_EQ(std::count(ids.begin(), ids.end(), end), 0) << text;
      EXPECT_EQ(tokenizer.decode(ids), text);
    }
    EXPECT_EQ(tokenizer.encode("ends") == (Ids{ending}), ignore_merges);
  }
  TinyTokenizer tiny;
  tiny.file["model"]["vocab"].erase(spell("\x01"));
  tiny.file["model"]["vocab"].erase(spell("\x02"));
  tiny.file["model"]["unk_token"] = "<unk>";
  tiny.file["model"]["byte_fallback"] = true;
  tiny.file["model"]["vocab"]["<unk>"] = tiny.next_id++;
  for (const char* token : {"<0xC4>", "<0x81>"})
    tiny.file["model"]["vocab"][token] = tiny.next_id++;
  const auto unknown = tiny.add_special("<unk>");
  const auto fallback = tiny.add_special("<0xC4>");
  const Tokenizer tokenizer = tiny.make();
  EXPECT_EQ(tokenizer.encode("a\x02", Special::kAsControl), (Ids{'a', unknown}));
  EXPECT_EQ(tokenizer.encode("a\x02"), (Ids{'a'}));
  EXPECT_EQ(tokenizer.encode("a\x01", Special::kAsControl), (Ids{'a', fallback, fallback + 1}));
  EXPECT_EQ(tokenizer.encode("a\x01"), (Ids{'a', fallback + 1}));
}

TEST(Tokenizer, BytesWithoutATokenAreLeftOut) {
  TinyTokenizer tiny;
  tiny.file["model"]["vocab"].erase(spell("\x03"));
  const Tokenizer tokenizer = tiny.make();
  EXPECT_EQ(tokenizer.encode("a\x03"
                             "b"),
            (Ids{'a', 'b'}));
}

TEST(Tokenizer, AddedTokensKeepTheirFlags) {
  TinyTokenizer tiny;
  const auto left = tiny.add_token("<l>", {{"lstrip", true}});
  const auto right = tiny.add_token("<r>", {{"rstrip", true}});
  const auto word = tiny.add_token("cat", {{"single_word", true}});
  const auto longer = tiny.add_token("<l><l>");
  const Tokenizer tokenizer = tiny.make();
  EXPECT_EQ(tokenizer.encode("a  <l> b"), joined({{'a', left}, bytes_as_ids(" b")}));
  EXPECT_EQ(tokenizer.encode("a <r> \n\xE3\x80\x80z"), joined({bytes_as_ids("a "), {right, 'z'}}));
  EXPECT_EQ(tokenizer.encode("<r>  <l>"), (Ids{right, left}));
  EXPECT_EQ(tokenizer.encode("cat"), (Ids{word}));
  EXPECT_EQ(tokenizer.encode("(cat)"), (Ids{'(', word, ')'}));
  for (const char* text : {"cats", "_cat", "cat7",
                           "\xC3\xA9"
                           "cat",
                           "cat\xE2\x80\x8D"}) {
    EXPECT_EQ(tokenizer.encode(text), bytes_as_ids(text)) << text;
  }
  EXPECT_EQ(tokenizer.encode("<l><l><l>"), (Ids{longer, left}));
}

TEST(Tokenizer, NormalizesToNfcOfUnicode9) {
  TinyTokenizer tiny;
  tiny.file["normalizer"] =
      Json::parse(R"({"type": "Sequence", "normalizers": [{"type": "NFC"}]})");
  const auto plain = tiny.add_token("e\xCC\x81");  // looked for before composing
  const auto composed = tiny.add_token("o\xCC\x88", {{"normalized", true}});
  const Tokenizer tokenizer = tiny.make();
  EXPECT_EQ(tokenizer.encode("a\xCC\x8A"), bytes_as_ids("\xC3\xA5"));
  EXPECT_EQ(tokenizer.encode("e\xCC\x81"), (Ids{plain}));
  EXPECT_EQ(tokenizer.encode("\xC3\xA9"), bytes_as_ids("\xC3\xA9"));
  EXPECT_EQ(tokenizer.encode("\xC3\xB6"), (Ids{composed}));
  EXPECT_EQ(tokenizer.encode("o\xCC\x88"), (Ids{composed}));
  // U+11935 and U+11930 compose since Unicode 13.
  const std::string young = "\xF0\x91\xA4\xB5\xF0\x91\xA4\xB0";
  EXPECT_EQ(tokenizer.encode(young), bytes_as_ids(young));
}

// The words that a pre-tokeniser makes, seen from outside: pairs merge inside a word only.
std::string cuts(const std::vector<Json>& steps, const std::string& text) {
  TinyTokenizer tiny;
  tiny.pre_tokenize(steps);
  tiny.file["model"]["ignore_merges"] = true;
  std::map<std::int64_t, std::string> words;
  for (std::size_t begin = 0; begin < text.size(); ++begin) {
    for (std::size_t size = 2; begin + size <= text.size(); ++size) {
      const std::string word = text.substr(begin, size);
      if (!tiny.file["model"]["vocab"].contains(spell(word))) words[tiny.add_word(word)] = word;
    }
  }
  std::string shown;
  for (const std::int64_t id : tiny.make().encode(text)) {
    if (!shown.empty()) shown += '|';
    shown += id < 256 ? std::string(1, static_cast<char>(id)) : words.at(id);
  }
  return shown;
}

Json split_step(const char* behavior, bool invert, Json pattern = {{"Regex", "-"}}) {
  return {{"type", "Split"}, {"pattern", pattern}, {"behavior", behavior}, {"invert", invert}};
}

TEST(Tokenizer, SplitsByEveryBehavior) {
  const std::string text = "-a--bc-";
  EXPECT_EQ(cuts({split_step("Isolated", false)}, text), "-|a|-|-|bc|-");
  EXPECT_EQ(cuts({split_step("Removed", false)}, text), "a|bc");
  EXPECT_EQ(cuts({split_step("Removed", true)}, text), "-|-|-|-");
  EXPECT_EQ(cuts({split_step("Contiguous", false)}, text), "-|a|--|bc|-");
  EXPECT_EQ(cuts({split_step("MergedWithPrevious", false)}, text), "-|a-|-|bc-");
  EXPECT_EQ(cuts({split_step("MergedWithNext", false)}, text), "-a|-|-bc|-");
  EXPECT_EQ(cuts({split_step("Isolated", false, {{"String", "--"}})}, text), "-a|--|bc-");
  EXPECT_EQ(cuts({split_step("Isolated", false, {{"String", "."}})}, "a.b"), "a|.|b");
  EXPECT_EQ(cuts({split_step("Isolated", false, {{"Regex", ""}})}, "abc"), "a|b|c");
  EXPECT_EQ(cuts({split_step("Isolated", false, {{"Regex", "\\s+(?!\\S)|\\s+"}})}, "a   b"),
            "a|  | |b");
}

TEST(Tokenizer, SplitsDigits) {
  const auto digits = [](bool individual) {
    return Json{{"type", "Digits"}, {"individual_digits", individual}};
  };
  EXPECT_EQ(cuts({digits(true)}, "ab12c3"), "ab|1|2|c|3");
  EXPECT_EQ(cuts({digits(false)}, "ab12c3"), "ab|12|c|3");
  EXPECT_EQ(cuts({digits(true)}, "x\xC2\xB2"), "x|\xC2\xB2");  // a superscript two is a digit
  const Json both = {{"type", "Sequence"},
                     {"pretokenizers", Json::array({digits(true), split_step("Removed", false)})}};
  EXPECT_EQ(cuts({both}, "ab-12-c"), "ab|1|2|c");
}

TEST(Tokenizer, AddsAPrefixSpace) {
  TinyTokenizer tiny;
  tiny.file["pre_tokenizer"]["add_prefix_space"] = true;
  const auto end = tiny.add_special("<end>");
  const Tokenizer tokenizer = tiny.make();
  EXPECT_EQ(tokenizer.encode("a b"), bytes_as_ids(" a b"));
  EXPECT_EQ(tokenizer.encode(" a"), bytes_as_ids(" a"));
  EXPECT_EQ(tokenizer.encode("a<end>b", Special::kAsControl), (Ids{' ', 'a', end, ' ', 'b'}));
}

TEST(Tokenizer, LongWordsTakeLittleTime) {
  TinyTokenizer tiny;
  std::string token = "a";
  for (int i = 0; i < 10; ++i, token += token) tiny.add_merge(token, token);
  const Tokenizer tokenizer = tiny.make();
  const std::string text(1 << 20, 'a');
  const auto start = std::chrono::steady_clock::now();
  const Ids ids = tokenizer.encode(text);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(ids, Ids(1 << 10, 256 + 9));
  EXPECT_LT(seconds.count(), 10);  // quadratic would take hours
}

TEST(Tokenizer, APatternThatExplodesIsAnError) {
  TinyTokenizer tiny;
  tiny.pre_tokenize({split_step("Isolated", false, {{"Regex", "(a+)+$"}})});
  const Tokenizer tokenizer = tiny.make();
  EXPECT_EQ(tokenizer.encode("aaa"), bytes_as_ids("aaa"));
  try {
    tokenizer.encode(std::string(60, 'a') + "b");
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    EXPECT_NE(std::string(error.what()).find("pretokenizers[0].pattern"), std::string::npos);
  }
}

TEST(Tokenizer, ManyThreadsGetTheSameIds) {
  TinyTokenizer tiny;
  tiny.add_merge("a", "b");
  tiny.add_merge("ab", "c");
  tiny.add_special("<end>");
  tiny.file["normalizer"] = {{"type", "NFC"}};
  const Tokenizer tokenizer = tiny.make();
  std::vector<std::string> texts;
  Random random(11);
  for (int i = 0; i < 200; ++i) {
    std::string text;
    for (int k = 0; k < 60; ++k) text += "abc <end>\xC3\xA9"[random.below(11)];
    texts.push_back(text);
  }
  std::vector<Ids> expected;
  for (const std::string& text : texts) expected.push_back(tiny.make().encode(text));
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < texts.size(); ++i) {
        const std::size_t idx = (i * (2 * t + 1)) % texts.size();
        wrong[t] += tokenizer.encode(texts[idx]) != expected[idx];
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(Tokenizer, DecodeRefusesUnknownIds) {
  const Tokenizer tokenizer = TinyTokenizer().make();
  for (const std::int64_t id : {std::int64_t{-1}, std::int64_t{256}, std::int64_t{1} << 40}) {
    EXPECT_THROW(tokenizer.decode({'a', id}), Error);
  }
}

class TokenizerFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        std::filesystem::temp_directory_path() / ("loza-tokenizer-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    tiny_.add_special("<s>");
    tiny_.add_special("</s>");
    write_file_atomic(folder_ / "tokenizer.json", tiny_.file.dump());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  Tokenizer load(const char* config) const {
    write_file_atomic(folder_ / "tokenizer_config.json", config);
    return Tokenizer::from_folder(folder_);
  }
  TinyTokenizer tiny_;
  std::filesystem::path folder_;
};

TEST_F(TokenizerFolder, ReadsBeginAndEnd) {
  const Tokenizer without = Tokenizer::from_folder(folder_);
  EXPECT_EQ(without.bos_id(), -1);
  EXPECT_EQ(without.eos_id(), -1);
  const Tokenizer both = load(R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "x": 1})");
  EXPECT_EQ(both.bos_id(), 256);
  EXPECT_EQ(both.eos_id(), 257);
  EXPECT_EQ(load(R"({"bos_token": null})").bos_id(), -1);
}

TEST_F(TokenizerFolder, RefusesBadConfigs) {
  for (const char* config :
       {"", "[]", "{", R"({"bos_token": 1})", R"({"bos_token": "<t>"})", R"({"eos_token": {}})",
        R"({"eos_token": {"content": null}})", R"({"eos_token": ["</s>"]})",
        R"({"eos_token": "</s>", "eos_token": "</s>"})"}) {
    try {
      load(config);
      ADD_FAILURE() << "accepted: " << config;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadInput) << config;
      EXPECT_NE(std::string(error.what()).find("tokenizer_config.json"), std::string::npos);
    }
  }
  EXPECT_THROW(Tokenizer::from_folder(folder_ / "absent"), Error);
}

}  // namespace
}  // namespace loza
