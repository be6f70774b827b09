#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "loza/base/hash.h"
#include "loza/tasks/tokenized.h"
#include "loza/tokenizer/tokenizer.h"

namespace loza {

// Document `index` of a seed's run: a pure function of both, so that a run that is resumed at
// a step draws what it would have drawn.
using DrawDocument = std::function<TokenizedDocument(std::uint64_t seed, std::int64_t index)>;

struct DataOptions {
  // What is mixed, comma separated: names of generated tasks ("lines", "niah", "niah:1", ...)
  // and files (a path with a '.' or '/'): rows of JSONL, or plain text. "NAME*3" comes three
  // times as often.
  std::string sources;
  std::int64_t length = 2048;         // tokens of a generated document
  std::int64_t num_questions = 8;     // of a generated document
  std::int64_t spread_to = 0;         // positions that one spans (TaskOptions); 0: its tokens
  double spread_share = 1;            // of the generated documents, chosen by chance
  std::filesystem::path prose, code;  // haystacks of the tasks that need one; may be empty
};

// Files of rows or of plain text in tokens, each read and encoded once, whoever asks for it.
// `tokenizer` must outlive the object. Not thread-safe.
class TokenizedFiles {
 public:
  explicit TokenizedFiles(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // Throws Error(kBadInput) for what is wrong in the file.
  const std::vector<TokenizedDocument>& get(const std::string& name);

 private:
  const Tokenizer& tokenizer_;
  std::map<std::string, std::vector<TokenizedDocument>> files_;
};

// Documents of several sources in turn, each as often as its share in every round, in a seeded
// order, and marked with the source's name (TokenizedDocument::kind). A
// file's documents are all seen before one is seen again; plain text longer than `length` is
// cut into windows, rows with answers stay whole. Immutable; thread-safe. Copies share what
// they read.
class Data {
 public:
  // Reads and encodes the files. Throws Error(kBadInput) for what is wrong in them, Error(kUsage)
  // for an unknown source.
  // `tokenizer` must outlive the object.
  Data(const DataOptions& options, const Tokenizer& tokenizer);
  // The same, with files that others read as well; they are copied.
  Data(const DataOptions& options, const Tokenizer& tokenizer, TokenizedFiles& files);

  TokenizedDocument draw(std::uint64_t seed, std::int64_t index) const;
  TokenizedDocument operator()(std::uint64_t seed, std::int64_t index) const {
    return draw(seed, index);
  }

 private:
  struct Source;
  struct Share {
    std::size_t source_idx = 0;
    std::int64_t turn = 0;  // among the source's shares
  };
  std::vector<std::shared_ptr<const Source>> sources_;
  std::vector<Share> shares_;  // of a round
};

// Adds a document (its ids, its answer marks, and its positions where it has any) to a hash of
// what a run has seen.
void hash_document(Sha256& hash, const TokenizedDocument& document);

}  // namespace loza
