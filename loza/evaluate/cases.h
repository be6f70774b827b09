#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "loza/tasks/haystack.h"
#include "loza/tasks/task.h"

namespace loza {

// One document to score, still as text: the same for every model and plan.
struct EvalCase {
  std::string task;         // the table's group
  std::int64_t length = 0;  // the column, in tokens; 0 for a user's own rows
  std::int64_t index = 0;   // among the documents of its task and length
  Document document;
};

// Which generated documents to make.
struct CaseOptions {
  std::vector<std::string> tasks;
  std::vector<std::int64_t> lengths;  // tokens of a whole document
  std::int64_t num_documents = 4;     // of each task and length
  std::int64_t first_document = 0;    // index of the first of them
  std::int64_t num_questions = 8;     // of a document; the first one is not scored
  std::uint64_t seed = 0;
  CountTokens count_tokens;         // REQUIRED: the first model's
  const Haystack* prose = nullptr;  // borrowed; for the tasks that need them
  const Haystack* code = nullptr;
};

// The documents of every task at every length: by task, then length, then index. The same
// options give the same documents. Throws Error(kUsage), as make_document does.
std::vector<EvalCase> make_cases(const CaseOptions& options);

// A user's rows (tasks/rows.h): rows with answers are the group "answers", plain texts the
// group "text". Throws Error(kBadInput).
std::vector<EvalCase> load_cases(const std::filesystem::path& path);

// "512", "4k" (4,096) or "1m" (1,048,576) tokens. Throws Error(kUsage).
std::int64_t parse_length(const std::string& text);
// The shortest spelling that parse_length reads: 4096 -> "4k", 7600 -> "7600".
std::string length_name(std::int64_t length);

}  // namespace loza
