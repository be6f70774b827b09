// Input: a tokenizer.json, a zero byte, a text. Whatever loads must encode any text (or say
// why not), never write a special token for plain text, and spell out its own ids.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "loza/base/error.h"
#include "loza/tokenizer/tokenizer.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void encode_and_decode(const loza::Tokenizer& tokenizer, std::string_view text) {
  using Special = loza::Tokenizer::Special;
  for (const Special special : {Special::kAsText, Special::kAsControl}) {
    const auto ids = tokenizer.encode(text, special);
    const std::string all = tokenizer.decode(ids);
    require(tokenizer.encode(text, special) == ids);  // now from the cache
    for (const std::int64_t id : ids) {
      require(id >= 0 && id < tokenizer.vocab_size());
      const bool is_special = tokenizer.decode({id}, /*skip_special=*/true).empty() &&
                              tokenizer.decode({id}).size() > 1;
      require(!(is_special && special == Special::kAsText));
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t zero = std::min(input.find('\0'), size);
  try {
    const auto tokenizer = loza::Tokenizer::from_json(input.substr(0, zero), "tokenizer.json");
    encode_and_decode(tokenizer, input.substr(std::min(zero + 1, size)));
  } catch (const loza::Error& error) {
    require(error.code() == loza::ExitCode::kBadInput);
  }
  return 0;
}
