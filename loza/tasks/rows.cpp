#include "loza/tasks/rows.h"

#include <fmt/format.h>

#include <initializer_list>
#include <utility>

#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/base/json.h"
#include "loza/base/utf8.h"

namespace loza {
namespace {

bool has_exactly(const Json& row, std::initializer_list<const char*> names) {
  if (row.size() != names.size()) return false;
  for (const char* name : names) {
    if (!row.contains(name)) return false;
  }
  return true;
}

std::string text_at(const Json& value, const std::string& place) {
  if (!value.is_string()) throw_bad_input(place, "a string", describe_json(value));
  return value.get<std::string>();
}

std::string nonempty_text_at(const Json& value, const std::string& place) {
  std::string text = text_at(value, place);
  if (text.empty()) throw_bad_input(place, "a string that is not empty", "an empty one");
  return text;
}

Turn turn_at(const Json& value, const std::string& place) {
  if (!value.is_array() || value.size() != 2) {
    throw_bad_input(place, "an array of a question and an answer", describe_json(value));
  }
  return {text_at(value[0], place + "[0]"), nonempty_text_at(value[1], place + "[1]")};
}

Document turns_row(const Json& row, const std::string& place) {
  Document document{text_at(row["prompt"], place + ": prompt"), {}};
  const Json& turns = row["turns"];
  if (!turns.is_array() || turns.empty()) {
    throw_bad_input(place + ": turns", "an array of one or more turns", describe_json(turns));
  }
  for (std::size_t i = 0; i < turns.size(); ++i) {
    document.turns.push_back(turn_at(turns[i], fmt::format("{}: turns[{}]", place, i)));
  }
  if (document.prompt.empty() && document.turns[0].question.empty()) {
    throw_bad_input(place, "a prompt or a question before the first answer", "nothing before it");
  }
  return document;
}

Document parse_row(std::string_view line, const std::string& place) {
  const Json row = parse_json(line, place);
  if (row.is_object()) {
    if (has_exactly(row, {"text"})) return {nonempty_text_at(row["text"], place + ": text"), {}};
    if (has_exactly(row, {"prompt", "answer"})) {
      return {nonempty_text_at(row["prompt"], place + ": prompt"),
              {{"", nonempty_text_at(row["answer"], place + ": answer")}}};
    }
    if (has_exactly(row, {"prompt", "turns"})) return turns_row(row, place);
  }
  throw_bad_input(place,
                  R"(an object {"text"}, {"prompt", "answer"} or {"prompt", "turns"} and no other )"
                  "names",
                  describe_json(row));
}

Document plain_text(const std::filesystem::path& path) {
  Document document{read_file(path), {}};
  const std::string& text = document.prompt;
  if (text.empty()) throw_bad_input(path.string(), "a text", "an empty file");
  const std::size_t error = utf8_error(text);
  if (error != text.size()) {
    throw_bad_input(path.string(), "a text in UTF-8", fmt::format("other bytes at {}", error));
  }
  return document;
}

}  // namespace

std::vector<Document> parse_rows(std::string_view jsonl, const std::string& place) {
  std::vector<Document> documents;
  for (std::size_t begin = 0, line = 1; begin < jsonl.size(); ++line) {
    const std::size_t newline = jsonl.find('\n', begin);
    const std::size_t end = newline == jsonl.npos ? jsonl.size() : newline;
    documents.push_back(
        parse_row(jsonl.substr(begin, end - begin), fmt::format("{}:{}", place, line)));
    begin = end + 1;
  }
  if (documents.empty()) throw_bad_input(place, "one JSON object a line", "an empty file");
  return documents;
}

std::vector<Document> load_rows(const std::filesystem::path& path) {
  if (path.extension() != ".jsonl") return {plain_text(path)};
  return parse_rows(read_file(path), path.string());
}

}  // namespace loza
