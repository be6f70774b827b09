#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace loza {

// One character of a text. For bytes that are not UTF-8 (as Unicode 15, table 3-7, defines
// it) `valid` is false, `size` is 1 and `code` is the byte.
struct Utf8Char {
  char32_t code = 0;
  std::size_t size = 0;
  bool valid = false;
};

// The character that begins at `offset`. REQUIRES: offset < text.size().
Utf8Char utf8_at(std::string_view text, std::size_t offset);

// The offset of the first byte that is not UTF-8; text.size() when all of it is.
std::size_t utf8_error(std::string_view text);

// REQUIRES: code <= 0x10FFFF.
void append_utf8(std::string& text, char32_t code);

}  // namespace loza
