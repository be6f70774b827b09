#pragma once

#include <string>
#include <string_view>

namespace loza {

// What tokenizers ask of Unicode, answered by ICU. Thread-safe.

// Canonical composition (NFC), as Hugging Face's tokenizers do it: by the tables of Unicode
// 9.0, so that marks added to Unicode later neither compose nor change their order.
// REQUIRES: text is UTF-8.
std::string to_nfc(std::string_view text);

bool is_numeric(char32_t code);      // general category N
bool is_white_space(char32_t code);  // property White_Space
bool is_word(char32_t code);         // \w of UTS #18
}  // namespace loza
