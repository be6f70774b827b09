#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "loza/base/json.h"

namespace loza {

// Reads values of a JSON object that a stranger wrote. Every getter checks type and range;
// what is wrong is an Error(kBadInput) that names the key, what was expected and what was
// found. A key whose value is null counts as missing.
class ConfigReader {
 public:
  // Throws when `object` is not an object. Keeps a reference to it.
  ConfigReader(const Json& object, std::string place);

  bool has(const std::string& key) const { return find(key) != nullptr; }
  const std::string& place() const { return place_; }

  std::int64_t integer(const std::string& key, std::int64_t min, std::int64_t max) const;
  std::int64_t integer_or(const std::string& key, std::int64_t fallback, std::int64_t min,
                          std::int64_t max) const;
  // Finite, min <= value <= max.
  double number(const std::string& key, double min, double max) const;
  double number_or(const std::string& key, double fallback, double min, double max) const;
  std::optional<double> optional_number(const std::string& key, double min, double max) const;
  bool boolean_or(const std::string& key, bool fallback) const;
  // One of `choices`.
  std::string choice(const std::string& key, const std::vector<std::string>& choices) const;
  std::string choice_or(const std::string& key, const std::string& fallback,
                        const std::vector<std::string>& choices) const;
  // The object at `key`; nothing when there is none.
  std::optional<ConfigReader> object(const std::string& key) const;
  const Json* find(const std::string& key) const;  // null when missing

  // The value at `key` is not as it must be.
  [[noreturn]] void refuse(const std::string& key, const std::string& expected,
                           const std::string& remedy = "") const;

 private:
  const Json* json_;
  std::string place_;
};

}  // namespace loza
