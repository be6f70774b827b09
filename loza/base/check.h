#pragma once

#include <fmt/format.h>

#include <string>

namespace loza::internal {

// Throws std::logic_error: a mistake of ours, with the place and the values.
[[noreturn]] void check_failed(const char* condition, const char* file, int line,
                               std::string values);

template <typename... Args>
std::string format_check_values(const Args&... args) {
  std::string out;
  ((out += fmt::format("{} ", args)), ...);
  return out;
}

}  // namespace loza::internal

// For what only a mistake of ours can break. Always on, in every build.
//   LOZA_CHECK(begin <= end, begin, end);
#define LOZA_CHECK(condition, ...)                                                        \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      ::loza::internal::check_failed(#condition, __FILE__, __LINE__,                      \
                                     ::loza::internal::format_check_values(__VA_ARGS__)); \
    }                                                                                     \
  } while (false)
