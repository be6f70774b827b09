#include "loza/tokenizer/fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "loza/base/error.h"

namespace loza {

Fields::Fields(const Json& value, std::string place, std::initializer_list<const char*> known_names,
               const char* separator)
    : value_(value), place_(std::move(place)), separator_(separator) {
  if (!value.is_object()) throw_bad_input(place_, "an object", describe_json(value));
  for (const auto& item : value.items()) {
    const auto is_it = [&](const char* name) { return item.key() == name; };
    if (std::none_of(known_names.begin(), known_names.end(), is_it)) {
      throw_bad_input(place_, fmt::format("the names {}", fmt::join(known_names, ", ")),
                      fmt::format("the unknown name {}", describe_json(item.key())));
    }
  }
}

const Json* Fields::find(const char* name) const {
  const auto it = value_.find(name);
  return it == value_.end() || it->is_null() ? nullptr : &*it;
}

const Json& Fields::need(const char* name) const {
  const Json* value = find(name);
  if (value == nullptr) throw_bad_input(place_of(name), "a value", "none");
  return *value;
}

std::string Fields::need_string(const char* name) const {
  const Json& value = need(name);
  if (!value.is_string()) throw_bad_input(place_of(name), "a string", describe_json(value));
  return value.get<std::string>();
}

bool Fields::need_bool(const char* name) const {
  const Json& value = need(name);
  if (!value.is_boolean()) {
    throw_bad_input(place_of(name), "true or false", describe_json(value));
  }
  return value.get<bool>();
}

std::int64_t Fields::need_id(const char* name) const {
  return token_id_at(need(name), place_of(name));
}

bool Fields::bool_or(const char* name, bool absent) const {
  return find(name) == nullptr ? absent : need_bool(name);
}

std::string Fields::string_or(const char* name, const std::string& absent) const {
  return find(name) == nullptr ? absent : need_string(name);
}

std::string type_of(const Json& value, const std::string& place) {
  if (!value.is_object()) throw_bad_input(place, "an object", describe_json(value));
  const auto it = value.find("type");
  if (it == value.end() || !it->is_string()) {
    throw_bad_input(place, "a 'type'", it == value.end() ? "none" : describe_json(*it));
  }
  return it->get<std::string>();
}

std::int64_t token_id_at(const Json& value, const std::string& place) {
  constexpr std::uint64_t kEnd = std::uint64_t{1} << 31;
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() >= kEnd) {
    throw_bad_input(place, "an id from 0 to 2147483647", describe_json(value));
  }
  return value.get<std::int64_t>();
}

}  // namespace loza
