#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace loza {

// The text <-> ids map of a Hugging Face tokenizer.json: byte-level BPE, with added tokens,
// the usual pre-tokenisers (Digits, Split by regex, ByteLevel, and Sequences of them) and the
// NFC normaliser. Anything else in the file is an Error(kBadInput) that names it.
// Immutable once made; thread-safe.
class Tokenizer {
 public:
  // Reads DIR/tokenizer.json (and bos/eos from tokenizer_config.json where it is there).
  // Throws Error(kBadInput).
  static Tokenizer from_folder(const std::filesystem::path& folder);
  // `place` begins error lines.
  static Tokenizer from_json(std::string_view tokenizer_json, const std::string& place);

  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // How encode treats the spelling of an added token ("<|im_end|>") inside the text.
  enum class Special {
    kAsText,     // as any other text: what a user typed can never become a control token
    kAsControl,  // as the token: for text that a template made
  };

  // Ids of a text; nothing is added in front or behind. Invalid UTF-8 is kept byte by byte
  // where the vocabulary is byte-level.
  std::vector<std::int64_t> encode(std::string_view text, Special special = Special::kAsText) const;
  // The bytes of the ids; not necessarily whole UTF-8 characters. Special tokens are spelled
  // out unless skip_special. Throws Error(kBadInput) for an id outside the vocabulary.
  std::string decode(const std::vector<std::int64_t>& ids, bool skip_special = false) const;

  std::int64_t vocab_size() const;  // 1 + the largest id
  // -1 when there is none.
  std::int64_t token_to_id(std::string_view token) const;
  std::int64_t bos_id() const;
  std::int64_t eos_id() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace loza
