#include "loza/base/error.h"

#include <fmt/format.h>

#include <utility>

namespace loza {
namespace {

std::string one_line(const Error::Text& text) {
  std::string line = fmt::format("{}: expected {}, got {}", text.place, text.expected, text.got);
  if (!text.remedy.empty()) line += fmt::format("; {}", text.remedy);
  for (char& c : line) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  return line;
}

}  // namespace

Error::Error(ExitCode code, Text text)
    : std::runtime_error(one_line(text)), code_(code), text_(std::move(text)) {}

void throw_bad_input(std::string place, std::string expected, std::string got, std::string remedy) {
  throw Error(ExitCode::kBadInput,
              {std::move(place), std::move(expected), std::move(got), std::move(remedy)});
}

void throw_usage(std::string place, std::string expected, std::string got, std::string remedy) {
  throw Error(ExitCode::kUsage,
              {std::move(place), std::move(expected), std::move(got), std::move(remedy)});
}

}  // namespace loza
