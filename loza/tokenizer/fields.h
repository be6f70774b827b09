#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "loza/base/json.h"

namespace loza {

// Strict reading of one JSON object of tokenizer.json: every name must be a known one, and
// every value of its type. All functions throw Error(kBadInput) that names the place.
class Fields {
 public:
  // `value` is borrowed. `separator` stands between the place and a name in error lines: a
  // file's is ": ".
  Fields(const Json& value, std::string place, std::initializer_list<const char*> known_names,
         const char* separator = ".");

  const std::string& place() const { return place_; }
  std::string place_of(const char* name) const { return place_ + separator_ + name; }

  // nullptr when the name is absent or its value is null.
  const Json* find(const char* name) const;
  const Json& need(const char* name) const;

  std::string need_string(const char* name) const;
  bool need_bool(const char* name) const;
  // An id of a token: an integer in [0, 2^31).
  std::int64_t need_id(const char* name) const;
  // `absent` where the name is absent or null.
  bool bool_or(const char* name, bool absent) const;
  std::string string_or(const char* name, const std::string& absent) const;

 private:
  const Json& value_;
  std::string place_;
  const char* separator_;
};

// The value of "type". Throws when it is not an object with a type.
std::string type_of(const Json& value, const std::string& place);

// Throws unless it is an integer in [0, 2^31).
std::int64_t token_id_at(const Json& value, const std::string& place);

}  // namespace loza
