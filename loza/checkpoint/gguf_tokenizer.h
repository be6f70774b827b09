#pragma once

#include <cstdint>

#include "loza/base/json.h"
#include "loza/checkpoint/gguf_file.h"

namespace loza {

// A GGUF file's tokenizer as the Hugging Face tokenizer that it was made from.
struct GgufTokenizer {
  Json tokenizer;          // tokenizer.json
  Json tokenizer_config;   // tokenizer_config.json, with the chat template
  Json generation_config;  // generation_config.json: the tokens that begin and end a text
};

// Reads tokenizer.ggml.*, for the byte-level BPE model "gpt2" and the pre-tokenisers that loza
// knows. Throws Error(kBadInput) that names what is missing or not known.
// vocab_size: rows of the embedding, which bound the number of tokens.
GgufTokenizer map_gguf_tokenizer(const GgufFile& file, std::int64_t vocab_size);

}  // namespace loza
