#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace loza {

// Keys keep the order of the file, so that what is written back differs from what was
// read only where it was changed.
using Json = nlohmann::ordered_json;

struct JsonLimits {
  int max_depth = 64;
};

// Strict parse of hostile text: UTF-8 only, no duplicate names in an object, bounded
// depth, nothing after the value. Time and memory grow linearly with the text.
// `place` begins the error's line. Throws Error(kBadInput).
Json parse_json(std::string_view text, const std::string& place, JsonLimits limits = {});

// The value's type and, if it is short, the value, for "got ..." in an error.
std::string describe_json(const Json& value);

// A name that came from a file, in double quotes, for an error's line: control and non-ASCII
// characters are escaped, a long name is cut.
std::string quote_name(std::string_view name);

// Adds a member at the end without the search that ordered_json makes for each: what keeps
// objects with many members (a vocabulary) linear. REQUIRES: an object without that name.
inline void append_member(Json& object, std::string name, Json value) {
  auto& members = object.get_ref<Json::object_t&>();
  members.Json::object_t::Container::emplace_back(std::move(name), std::move(value));
}

// What no sane file exceeds; longer strings would be copied several times by the lexer.
constexpr std::size_t kMaxJsonTokenBytes = std::size_t{8} << 20;

// Throws Error(kBadInput) for a NUL byte (which nlohmann takes for the end of the text) or a
// string, number or run of spaces longer than kMaxJsonTokenBytes.
void check_json_tokens(std::string_view text, const std::string& place);

// Walks JSON text with a nlohmann SAX handler, without building a document, for texts too
// large or too hostile for one. The handler throws where it dislikes what it sees; its
// parse_error should call throw_json_error. Throws Error(kBadInput).
template <typename Handler>
void walk_json(std::string_view text, const std::string& place, Handler& handler) {
  check_json_tokens(text, place);
  Json::sax_parse(text, &handler);
}

// Error(kBadInput) for a syntax error as nlohmann reports it to parse_error.
[[noreturn]] void throw_json_error(const std::string& place, std::size_t position,
                                   const std::exception& e);

}  // namespace loza
