#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace loza {

class Haystack;

// One question and the text that answers it. They stand in the document one after the
// other with nothing between, so separators are part of the strings.
struct Turn {
  std::string question;
  std::string answer;
  bool scored = true;  // false: it only shows the form, hits are not counted
};

// prompt, question, answer, question, answer, ...: one text. Loss and score are taken on
// the answers; in a plain text (no turns) on every token from position loss_from on.
struct Document {
  std::string prompt;
  std::vector<Turn> turns;
  std::int64_t loss_from = 0;  // a token's place; used only when there are no turns
};

// How long a text is in the model's own tokens.
using CountTokens = std::function<std::int64_t(std::string_view)>;

struct TaskOptions {
  // Tokens of the whole document, its questions and answers included: never more; less by at
  // most a 64th, or by one line of the text.
  std::int64_t length = 2048;
  std::uint64_t seed = 0;
  std::int64_t num_questions = 8;   // the first of several shows the form and is not scored
  std::int64_t ppl_from = 1024;     // ppl: loss beyond this position, or the second half of less
  CountTokens count_tokens;         // REQUIRED
  const Haystack* prose = nullptr;  // borrowed; for the tasks that need them
  const Haystack* code = nullptr;
};

struct TaskInfo {
  const char* name;
  const char* description;
  // Makes document `index` of a seed. Several threads may call it at once if
  // options.count_tokens allows that.
  Document (*make)(const TaskOptions& options, std::int64_t index);
};

// Every generated task, in the order in which tables show them.
const std::vector<TaskInfo>& tasks();

// nullptr when there is no such task.
const TaskInfo* find_task(std::string_view name);

// Document `index` of a task: the same text for the same options and index on any machine,
// unrelated to the documents of other indexes and seeds. Its time is linear in the length.
// Each question is answered by exactly one place in the prompt, uniformly random in depth.
// Throws Error(kUsage) for an unknown task, a length too small for the questions or too
// large for the unique keys, or a haystack that the task needs and does not have.
Document make_document(std::string_view task, const TaskOptions& options, std::int64_t index);

}  // namespace loza
