#include "loza/tokenizer/pre_tokenizer.h"

#include <fmt/format.h>

#include <utility>

#include "loza/base/error.h"
#include "loza/base/utf8.h"
#include "loza/tokenizer/fields.h"
#include "loza/tokenizer/unicode.h"

namespace loza {
namespace {

// How GPT-2 cuts text; ByteLevel's own pattern.
constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// A part of a text, and whether the pattern matched it.
struct Part {
  ByteRange range;
  bool is_match;
};

// Covers the text: the matches and what is between them.
std::vector<Part> parts_around(const std::vector<ByteRange>& matches, std::size_t text_size) {
  std::vector<Part> parts;
  std::size_t done = 0;
  for (const ByteRange& match : matches) {
    if (done != match.begin) parts.push_back({{done, match.begin}, false});
    parts.push_back({match, true});
    done = match.end;
  }
  if (done != text_size) parts.push_back({{done, text_size}, false});
  return parts;
}

std::vector<ByteRange> find_digits(std::string_view text) {
  std::vector<ByteRange> digits;
  for (std::size_t i = 0; i < text.size();) {
    const Utf8Char c = utf8_at(text, i);
    const bool is_digit = c.code < 0x80 ? c.code >= '0' && c.code <= '9' : is_numeric(c.code);
    if (is_digit) digits.push_back({i, i + c.size});
    i += c.size;
  }
  return digits;
}

std::vector<ByteRange> join_contiguous(const std::vector<Part>& parts) {
  std::vector<ByteRange> joined;
  bool previous = false;
  for (const Part& part : parts) {
    if (part.is_match == previous && !joined.empty()) {
      joined.back().end = part.range.end;
    } else {
      joined.push_back(part.range);
    }
    previous = part.is_match;
  }
  return joined;
}

// A match goes to the part before it, unless that is a match too.
std::vector<ByteRange> merge_with_previous(const std::vector<Part>& parts) {
  std::vector<ByteRange> merged;
  bool previous = false;
  for (const Part& part : parts) {
    if (part.is_match && !previous && !merged.empty()) {
      merged.back().end = part.range.end;
    } else {
      merged.push_back(part.range);
    }
    previous = part.is_match;
  }
  return merged;
}

// A match goes to the part behind it, unless that is a match too.
std::vector<ByteRange> merge_with_next(const std::vector<Part>& parts) {
  std::vector<ByteRange> merged;
  bool next = false;
  for (std::size_t i = parts.size(); i-- > 0;) {
    if (parts[i].is_match && !next && !merged.empty()) {
      merged.back().begin = parts[i].range.begin;
    } else {
      merged.push_back(parts[i].range);
    }
    next = parts[i].is_match;
  }
  return {merged.rbegin(), merged.rend()};
}

std::vector<ByteRange> apply_behavior(const std::vector<Part>& parts, SplitBehavior behavior) {
  if (behavior == SplitBehavior::kContiguous) return join_contiguous(parts);
  if (behavior == SplitBehavior::kMergedWithPrevious) return merge_with_previous(parts);
  if (behavior == SplitBehavior::kMergedWithNext) return merge_with_next(parts);
  std::vector<ByteRange> ranges;
  for (const Part& part : parts) {
    if (behavior == SplitBehavior::kRemoved && part.is_match) continue;
    ranges.push_back(part.range);
  }
  return ranges;
}

void add_words(std::string_view text, const std::vector<ByteRange>& ranges,
               std::vector<std::string_view>& words) {
  for (const ByteRange& range : ranges) {
    if (range.begin < range.end) {
      words.push_back(text.substr(range.begin, range.end - range.begin));
    }
  }
}

SplitBehavior behavior_at(const Fields& fields) {
  const std::string name = fields.need_string("behavior");
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  throw_bad_input(fields.place_of("behavior"),
                  "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous",
                  describe_json(name));
}

Regex pattern_at(const Fields& fields) {
  const std::string place = fields.place_of("pattern");
  const Fields pattern(fields.need("pattern"), place, {"Regex", "String"});
  const bool is_regex = pattern.find("Regex") != nullptr;
  if (is_regex == (pattern.find("String") != nullptr)) {
    throw_bad_input(place, "a 'Regex' or a 'String'", describe_json(fields.need("pattern")));
  }
  return is_regex ? Regex(pattern.need_string("Regex"), Regex::Syntax::kRegex, place)
                  : Regex(pattern.need_string("String"), Regex::Syntax::kLiteral, place);
}

}  // namespace

PreTokenizer::PreTokenizer(const Json* value, const std::string& place) {
  if (value != nullptr) add_step(*value, place);
  if (!byte_level_) {
    throw_bad_input(place, "a ByteLevel pre-tokenizer",
                    value == nullptr ? "none" : describe_json(*value),
                    "only byte-level BPE is supported");
  }
}

void PreTokenizer::add_step(const Json& value, const std::string& place) {
  if (byte_level_) {
    throw_bad_input(place, "nothing behind the ByteLevel pre-tokenizer", describe_json(value));
  }
  const std::string type = type_of(value, place);
  if (type == "Sequence") {
    const Fields fields(value, place, {"type", "pretokenizers"});
    const Json& steps = fields.need("pretokenizers");
    if (!steps.is_array()) {
      throw_bad_input(fields.place_of("pretokenizers"), "an array", describe_json(steps));
    }
    for (std::size_t i = 0; i < steps.size(); ++i) {
      add_step(steps[i], fmt::format("{}.pretokenizers[{}]", place, i));
    }
  } else if (type == "Digits") {
    add_digits(value, place);
  } else if (type == "Split") {
    add_split(value, place);
  } else if (type == "ByteLevel") {
    set_byte_level(value, place);
  } else {
    throw_bad_input(place, "one of Digits, Split, ByteLevel, Sequence", describe_json(type));
  }
}

void PreTokenizer::add_digits(const Json& value, const std::string& place) {
  const Fields fields(value, place, {"type", "individual_digits"});
  steps_.emplace_back(Digits{fields.need_bool("individual_digits")});
}

void PreTokenizer::add_split(const Json& value, const std::string& place) {
  const Fields fields(value, place, {"type", "pattern", "behavior", "invert"});
  steps_.emplace_back(Split{pattern_at(fields), behavior_at(fields), fields.need_bool("invert")});
}

void PreTokenizer::set_byte_level(const Json& value, const std::string& place) {
  const Fields fields(value, place, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
  byte_level_ = ByteLevel{fields.need_bool("add_prefix_space"), std::nullopt};
  fields.bool_or("trim_offsets", true);  // about offsets, which are not computed here
  if (fields.bool_or("use_regex", true)) {
    byte_level_->split = Split{Regex(kGpt2Pattern, Regex::Syntax::kRegex, place),
                               SplitBehavior::kIsolated, /*invert=*/false};
  }
}

void PreTokenizer::apply(const Digits& step, std::string_view text, Words& words) {
  const std::vector<Part> parts = parts_around(find_digits(text), text.size());
  add_words(text,
            apply_behavior(parts,
                           step.individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous),
            words);
}

void PreTokenizer::apply(const Split& step, std::string_view text, Words& words) {
  std::vector<Part> parts = parts_around(step.pattern.find_all(text), text.size());
  if (step.invert) {
    for (Part& part : parts) part.is_match = !part.is_match;
  }
  add_words(text, apply_behavior(parts, step.behavior), words);
}

std::vector<std::string_view> PreTokenizer::words(std::string_view text,
                                                  std::deque<std::string>& made) const {
  Words words;
  if (!text.empty()) words.push_back(text);
  const auto cut_all = [&](const auto& step) {
    Words cut;
    for (const std::string_view word : words) apply(step, word, cut);
    words = std::move(cut);
  };
  for (const auto& step : steps_) std::visit(cut_all, step);
  if (byte_level_->add_prefix_space) {
    for (std::string_view& word : words) {
      if (!word.starts_with(' ')) word = made.emplace_back(fmt::format(" {}", word));
    }
  }
  if (byte_level_->split) cut_all(*byte_level_->split);
  return words;
}

}  // namespace loza
