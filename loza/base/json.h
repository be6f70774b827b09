#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace loza {

// Keys keep the order of the file, so that what is written back differs from what was
// read only where it was changed.
using Json = nlohmann::ordered_json;

struct JsonLimits {
  int max_depth = 64;
};

// Strict parse of hostile text: UTF-8 only, no duplicate names in an object, bounded
// depth, nothing after the value. `place` begins the error's line.
// Throws Error(kBadInput).
Json parse_json(std::string_view text, const std::string& place, JsonLimits limits = {});

// The value's type and, if it is short, the value, for "got ..." in an error.
std::string describe_json(const Json& value);

}  // namespace loza
