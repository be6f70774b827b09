#include "loza/base/utf8.h"

#include "loza/base/check.h"

namespace loza {
namespace {

struct Lead {
  std::size_t size;            // 0 where no character begins with this byte
  unsigned char low, high;     // what the second byte may be
  unsigned char payload_mask;  // the bits of the lead byte that belong to the code
};

// Table 3-7 of the Unicode standard: overlong forms and surrogates are left out.
Lead lead_of(unsigned char byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {2, 0x80, 0xBF, 0x1F};
  if (byte == 0xE0) return {3, 0xA0, 0xBF, 0x0F};
  if (byte == 0xED) return {3, 0x80, 0x9F, 0x0F};
  if (byte >= 0xE1 && byte <= 0xEF) return {3, 0x80, 0xBF, 0x0F};
  if (byte == 0xF0) return {4, 0x90, 0xBF, 0x07};
  if (byte == 0xF4) return {4, 0x80, 0x8F, 0x07};
  if (byte >= 0xF1 && byte <= 0xF3) return {4, 0x80, 0xBF, 0x07};
  return {0, 0, 0, 0};
}

}  // namespace

Utf8Char utf8_at(std::string_view text, std::size_t offset) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[offset + i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {first, 1, true};
  const Utf8Char invalid = {first, 1, false};
  const Lead lead = lead_of(first);
  if (lead.size == 0 || text.size() - offset < lead.size) return invalid;
  if (byte(1) < lead.low || byte(1) > lead.high) return invalid;
  char32_t code = first & lead.payload_mask;
  for (std::size_t i = 1; i < lead.size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return invalid;
    code = code << 6 | (byte(i) & 0x3F);
  }
  return {code, lead.size, true};
}

std::size_t utf8_error(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const Utf8Char c = utf8_at(text, i);
    if (!c.valid) return i;
    i += c.size;
  }
  return text.size();
}

void append_utf8(std::string& text, char32_t code) {
  LOZA_CHECK(code <= 0x10FFFF, static_cast<std::uint32_t>(code));
  const auto put = [&](char32_t byte) { text += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

}  // namespace loza
