#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace loza {

// GPT-2's alphabet of bytes: each of the 256 bytes as one printable character (a space is
// U+0120, a newline U+010A), so that a vocabulary of arbitrary bytes can be spelled in JSON.

char32_t byte_to_char(unsigned char byte);

// The bytes that `token` spells; nothing when it has a character outside the alphabet.
// REQUIRES: token is UTF-8.
std::optional<std::string> spelled_bytes(std::string_view token);

}  // namespace loza
