#include "loza/tokenizer/regex.h"

#include <fmt/format.h>
#include <oniguruma.h>

#include <utility>

#include "loza/base/check.h"
#include "loza/base/error.h"
#include "loza/base/utf8.h"

namespace loza {
namespace {

constexpr std::size_t kMaxPatternBytes = 16 * 1024;
// Backtracking steps allowed for one search: some for each byte that may have to be looked
// at, and many to begin with.
constexpr unsigned long kFreeSteps = 10'000'000;
constexpr unsigned long kStepsPerByte = 64;

const OnigUChar* onig_text(std::string_view text) {
  return reinterpret_cast<const OnigUChar*>(text.data());
}

std::string onig_message(int code, OnigErrorInfo* info = nullptr) {
  OnigUChar message[ONIG_MAX_ERROR_MESSAGE_LEN];
  const int size = info != nullptr ? onig_error_code_to_str(message, code, info)
                                   : onig_error_code_to_str(message, code);
  return {reinterpret_cast<const char*>(message), static_cast<std::size_t>(size)};
}

void initialize_once() {
  static const int status = [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    return onig_initialize(encodings, 1);
  }();
  LOZA_CHECK(status == ONIG_NORMAL, status);
}

using Region = std::unique_ptr<OnigRegion, decltype([](OnigRegion* region) {
                                 onig_region_free(region, /*free_self=*/1);
                               })>;
using MatchParam =
    std::unique_ptr<OnigMatchParam,
                    decltype([](OnigMatchParam* param) { onig_free_match_param(param); })>;

MatchParam bounded_search(std::size_t text_bytes) {
  MatchParam param(onig_new_match_param());
  LOZA_CHECK(param != nullptr);
  onig_initialize_match_param(param.get());
  const unsigned long limit = kFreeSteps + kStepsPerByte * text_bytes;
  onig_set_retry_limit_in_match_of_match_param(param.get(), limit);
  onig_set_retry_limit_in_search_of_match_param(param.get(), limit);
  return param;
}

}  // namespace

struct Regex::Compiled {
  regex_t* regex = nullptr;
};

void Regex::Free::operator()(Compiled* compiled) const {
  if (compiled->regex != nullptr) onig_free(compiled->regex);
  delete compiled;
}

Regex::Regex(const std::string& pattern, Syntax syntax, std::string place)
    : compiled_(new Compiled), place_(std::move(place)) {
  if (pattern.size() > kMaxPatternBytes) {
    throw_bad_input(place_, fmt::format("a pattern of at most {} bytes", kMaxPatternBytes),
                    fmt::format("{}", pattern.size()));
  }
  initialize_once();
  OnigErrorInfo info;
  const int status =
      onig_new(&compiled_->regex, onig_text(pattern), onig_text(pattern) + pattern.size(),
               ONIG_OPTION_NONE, ONIG_ENCODING_UTF8,
               syntax == Syntax::kLiteral ? ONIG_SYNTAX_ASIS : ONIG_SYNTAX_DEFAULT, &info);
  if (status != ONIG_NORMAL) {
    throw_bad_input(place_, "a regular expression", onig_message(status, &info));
  }
}

std::vector<ByteRange> Regex::find_all(std::string_view text) const {
  const Region region(onig_region_new());
  LOZA_CHECK(region != nullptr);
  const MatchParam param = bounded_search(text.size());
  const OnigUChar* begin = onig_text(text);
  const OnigUChar* end = begin + text.size();

  std::vector<ByteRange> matches;
  for (std::size_t from = 0; from <= text.size();) {
    const int at = onig_search_with_param(compiled_->regex, begin, end, begin + from, end,
                                          region.get(), ONIG_OPTION_NONE, param.get());
    if (at == ONIG_MISMATCH) break;
    if (at < 0) {
      throw_bad_input(place_, "a pattern that can be matched against this text", onig_message(at));
    }
    const ByteRange match = {static_cast<std::size_t>(region->beg[0]),
                             static_cast<std::size_t>(region->end[0])};
    const bool repeats_empty =
        match.begin == match.end && !matches.empty() && matches.back().end == match.end;
    if (!repeats_empty) {
      matches.push_back(match);
      from = match.end;
    } else if (from < text.size()) {
      from += utf8_at(text, from).size;
    } else {
      break;
    }
  }
  return matches;
}

}  // namespace loza
