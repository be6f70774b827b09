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
// NFC normaliser. Anything else in the file is an Error(kBadInput) that names it. Truncation,
// padding and post-processors are read over: they are not about the map.
//
// Gives the same ids as Hugging Face's tokenizers, with one reservation: which characters are
// letters, digits or marks is asked of the system's Oniguruma and ICU (in Debian 12 Unicode 14
// and 15), so that a text with younger characters may be cut elsewhere.
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

  // How encode treats the spelling of a special token ("<|im_end|>") inside the text. Added
  // tokens that are not special are found in both.
  enum class Special {
    // As any other text: what a user typed never becomes a special token, by no way through
    // the vocabulary. (One that is spelled as a single byte is that byte, and stays it.)
    kAsText,
    kAsControl,  // as the token: for text that a template made
  };

  // Ids of a text; nothing is added in front or behind. Bytes that are not UTF-8 are encoded
  // as they are. Bytes without a token in the vocabulary (SmolLM2 lacks 21 of 256) are left
  // out where the file names no unknown token, as Hugging Face's tokenizers do.
  // Throws Error(kBadInput) for a text over 1 GiB, or one that the file's pattern or unknown
  // token can't deal with.
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
