#include "loza/model/config_reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "loza/base/error.h"

namespace loza {

ConfigReader::ConfigReader(const Json& object, std::string place)
    : json_(&object), place_(std::move(place)) {
  if (!object.is_object()) throw_bad_input(place_, "a JSON object", describe_json(object));
}

const Json* ConfigReader::find(const std::string& key) const {
  const auto it = json_->find(key);
  return it == json_->end() || it->is_null() ? nullptr : &*it;
}

void ConfigReader::refuse(const std::string& key, const std::string& expected,
                          const std::string& remedy) const {
  const auto it = json_->find(key);
  throw_bad_input(fmt::format("{}: '{}'", place_, key), expected,
                  it == json_->end() ? "no such key" : describe_json(*it), remedy);
}

std::int64_t ConfigReader::integer(const std::string& key, std::int64_t min,
                                   std::int64_t max) const {
  const Json* value = find(key);
  const auto in_range = [&] {
    // Unsigned values above the signed range must not wrap on their way.
    if (value->is_number_unsigned()) {
      const auto number = value->get<std::uint64_t>();
      return number <= static_cast<std::uint64_t>(max) && static_cast<std::int64_t>(number) >= min;
    }
    return value->get<std::int64_t>() >= min && value->get<std::int64_t>() <= max;
  };
  if (value == nullptr || !value->is_number_integer() || !in_range()) {
    refuse(key, fmt::format("an integer from {} to {}", min, max));
  }
  return value->get<std::int64_t>();
}

std::int64_t ConfigReader::integer_or(const std::string& key, std::int64_t fallback,
                                      std::int64_t min, std::int64_t max) const {
  return has(key) ? integer(key, min, max) : fallback;
}

double ConfigReader::number(const std::string& key, double min, double max) const {
  const Json* value = find(key);
  // The comparison is false for NaN.
  if (value == nullptr || !value->is_number() ||
      !(value->get<double>() >= min && value->get<double>() <= max)) {
    refuse(key, fmt::format("a number from {} to {}", min, max));
  }
  return value->get<double>();
}

double ConfigReader::number_or(const std::string& key, double fallback, double min,
                               double max) const {
  return has(key) ? number(key, min, max) : fallback;
}

std::optional<double> ConfigReader::optional_number(const std::string& key, double min,
                                                    double max) const {
  if (!has(key)) return std::nullopt;
  return number(key, min, max);
}

bool ConfigReader::boolean_or(const std::string& key, bool fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) refuse(key, "true or false");
  return value->get<bool>();
}

std::string ConfigReader::choice(const std::string& key,
                                 const std::vector<std::string>& choices) const {
  const Json* value = find(key);
  if (value == nullptr || !value->is_string() ||
      std::find(choices.begin(), choices.end(), value->get<std::string>()) == choices.end()) {
    refuse(key, fmt::format("one of \"{}\"", fmt::join(choices, "\", \"")));
  }
  return value->get<std::string>();
}

std::string ConfigReader::choice_or(const std::string& key, const std::string& fallback,
                                    const std::vector<std::string>& choices) const {
  return has(key) ? choice(key, choices) : fallback;
}

std::optional<ConfigReader> ConfigReader::object(const std::string& key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) refuse(key, "a JSON object");
  return ConfigReader(*value, fmt::format("{}: '{}'", place_, key));
}

}  // namespace loza
