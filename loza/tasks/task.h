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

// A place of the prompt from which on tokens stand at later positions than their number says.
struct PositionJump {
  std::size_t prompt_byte = 0;  // where in the prompt, not inside a fact
  std::int64_t shift = 0;       // added to the positions from here on, up to the next jump
};

// prompt, question, answer, question, answer, ...: one text. Loss and score are taken on
// the answers; in a plain text (no turns) on every token from position loss_from on.
struct Document {
  std::string prompt;
  std::vector<Turn> turns;
  std::int64_t loss_from = 0;  // a token's place; used only when there are no turns
  // Of a spread document, in rising order of byte and shift. Such a prompt is tokenised part by
  // part, cut at the jumps.
  std::vector<PositionJump> jumps = {};
};

// How long a text is in the model's own tokens.
using CountTokens = std::function<std::int64_t(std::string_view)>;

struct TaskOptions {
  // Tokens of the whole document, its questions and answers included: never more; less by at
  // most a 64th, or by one line of the text.
  std::int64_t length = 2048;
  std::uint64_t seed = 0;
  std::int64_t num_questions = 8;  // the first of several shows the form and is not scored
  std::int64_t ppl_from = 1024;    // ppl: loss beyond this position, or the second half of less
  std::int64_t wording = 0;        // needles: how sentences and questions are put
  std::int64_t num_hops = 4;       // vt: references a chain
  // Positions jump between pieces of the haystack, so that the document spans up to so many of
  // them; facts, questions and answers stay in one piece. 0: every token next to the one before.
  // Plain texts are never spread.
  std::int64_t spread_to = 0;
  CountTokens count_tokens;         // REQUIRED
  const Haystack* prose = nullptr;  // borrowed; for the tasks that need them
  const Haystack* code = nullptr;
};

// The option that a task's name may set: "niah:2" is niah in wording 2.
struct TaskSuffix {
  const char* name;
  std::int64_t TaskOptions::*option;
  std::int64_t min, max;
};

struct TaskInfo {
  const char* name;
  const char* description;
  // Makes document `index` of a seed. Several threads may call it at once if
  // options.count_tokens allows that.
  Document (*make)(const TaskOptions& options, std::int64_t index);
  const TaskSuffix* suffix = nullptr;  // nullptr: none
};

// Every generated task, in the order in which tables show them.
const std::vector<TaskInfo>& tasks();

// By a name with or without a suffix, whose number is not looked at; nullptr when there is no
// such task.
const TaskInfo* find_task(std::string_view name);

// Document `index` of a task: the same text for the same options and index on any machine,
// unrelated to the documents of other indexes and seeds; another wording or spread_to changes
// neither keys, values nor depths. Its time is linear in the length.
// Each question is answered by exactly the facts that it asks for, each at one place in the
// prompt, uniformly random in depth.
// Throws Error(kUsage) for an unknown task, a length too small for the questions, or a haystack
// that the task needs and does not have.
Document make_document(std::string_view task, const TaskOptions& options, std::int64_t index);

}  // namespace loza
