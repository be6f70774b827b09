#pragma once

#include <string>

#include "loza/base/json.h"
#include "loza/base/utf8.h"
#include "loza/tokenizer/tokenizer.h"

namespace loza::testing {

// A tokenizer whose ids are bytes: GPT-2's byte alphabet and no merges.
inline Tokenizer byte_tokenizer() {
  Json vocab = Json::object();
  char32_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    std::string spelling;
    append_utf8(spelling, printable ? static_cast<char32_t>(byte) : next++);
    vocab[spelling] = byte;
  }
  const Json json = {{"version", "1.0"},
                     {"added_tokens", Json::array()},
                     {"normalizer", nullptr},
                     {"pre_tokenizer",
                      {{"type", "ByteLevel"},
                       {"add_prefix_space", false},
                       {"trim_offsets", true},
                       {"use_regex", true}}},
                     {"post_processor", nullptr},
                     {"decoder",
                      {{"type", "ByteLevel"},
                       {"add_prefix_space", true},
                       {"trim_offsets", true},
                       {"use_regex", true}}},
                     {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}};
  return Tokenizer::from_json(json.dump(), "byte tokenizer");
}

}  // namespace loza::testing
