#include "loza/tokenizer/byte_alphabet.h"

#include <array>

#include "loza/base/utf8.h"

namespace loza {
namespace {

constexpr char32_t kFirstStandIn = 0x100;
constexpr char32_t kNumStandIns = 68;

// Bytes that are printable as Latin-1 stand for themselves.
constexpr bool is_printable(unsigned int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<char32_t, 256> chars{};
  std::array<unsigned char, kNumStandIns> stood_in_for{};

  constexpr Alphabet() {
    char32_t next = 0;
    for (unsigned int byte = 0; byte < 256; ++byte) {
      if (is_printable(byte)) {
        chars[byte] = byte;
      } else {
        stood_in_for[next] = static_cast<unsigned char>(byte);
        chars[byte] = kFirstStandIn + next++;
      }
    }
  }
};

constexpr Alphabet kAlphabet;

}  // namespace

char32_t byte_to_char(unsigned char byte) { return kAlphabet.chars[byte]; }

std::optional<std::string> spelled_bytes(std::string_view token) {
  std::string bytes;
  for (std::size_t i = 0; i < token.size();) {
    const Utf8Char c = utf8_at(token, i);
    i += c.size;
    if (c.code < kFirstStandIn && is_printable(static_cast<unsigned int>(c.code))) {
      bytes += static_cast<char>(c.code);
    } else if (c.code >= kFirstStandIn && c.code < kFirstStandIn + kNumStandIns) {
      bytes += static_cast<char>(kAlphabet.stood_in_for[c.code - kFirstStandIn]);
    } else {
      return std::nullopt;
    }
  }
  return bytes;
}

}  // namespace loza
