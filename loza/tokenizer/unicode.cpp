#include "loza/tokenizer/unicode.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>

#include <algorithm>

#include "loza/base/check.h"

namespace loza {
namespace {

// ICU's NFC, blind to characters that Unicode 9.0 did not have.
class Nfc {
 public:
  Nfc() : known_(u"[:age=9.0:]", status_), filtered_(newest(), *known_.freeze()) { check(); }

  std::string apply(std::string_view text) const {
    std::string result;
    icu::StringByteSink<std::string> sink(&result, static_cast<int32_t>(text.size()));
    UErrorCode status = U_ZERO_ERROR;
    filtered_.normalizeUTF8(0, {text.data(), static_cast<int32_t>(text.size())}, sink, nullptr,
                            status);
    LOZA_CHECK(U_SUCCESS(status), u_errorName(status));
    return result;
  }

 private:
  const icu::Normalizer2& newest() {
    const icu::Normalizer2* instance = icu::Normalizer2::getNFCInstance(status_);
    check();
    return *instance;
  }
  void check() const { LOZA_CHECK(U_SUCCESS(status_), u_errorName(status_)); }

  UErrorCode status_ = U_ZERO_ERROR;
  icu::UnicodeSet known_;
  icu::FilteredNormalizer2 filtered_;
};

bool in_category(char32_t code, uint32_t mask) {
  return (U_GET_GC_MASK(static_cast<UChar32>(code)) & mask) != 0;
}

bool has(char32_t code, UProperty property) {
  return u_hasBinaryProperty(static_cast<UChar32>(code), property) != 0;
}

}  // namespace

std::string to_nfc(std::string_view text) {
  static const Nfc nfc;
  const bool is_ascii = std::all_of(text.begin(), text.end(),
                                    [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  return is_ascii ? std::string(text) : nfc.apply(text);
}

bool is_numeric(char32_t code) { return in_category(code, U_GC_N_MASK); }

bool is_white_space(char32_t code) { return has(code, UCHAR_WHITE_SPACE); }

bool is_word(char32_t code) {
  return in_category(code, U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK) ||
         has(code, UCHAR_ALPHABETIC) || has(code, UCHAR_JOIN_CONTROL);
}

}  // namespace loza
