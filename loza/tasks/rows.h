#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "loza/tasks/task.h"

namespace loza {

// A user's own documents.
//   *.jsonl: a document a line, one of
//     {"text": T}                                  a plain text
//     {"prompt": P, "answer": A}                   one question, asked in P
//     {"prompt": P, "turns": [[Q, A], [Q, A], ...]}
//   any other file: one plain text.
// Throws Error(kBadInput) with file and line for anything else: other names, wrong types,
// an empty text or answer, an answer with nothing before it, text that is not UTF-8, a
// file without documents.
std::vector<Document> load_rows(const std::filesystem::path& path);

// The same of a text in memory. `place` begins error lines ("rows.jsonl").
std::vector<Document> parse_rows(std::string_view jsonl, const std::string& place);

}  // namespace loza
