// Windows of a text, to measure how well the model goes on with it far behind its start.
#include <fmt/format.h>

#include <algorithm>

#include "loza/base/error.h"
#include "loza/tasks/haystack.h"
#include "loza/tasks/hide.h"
#include "loza/tasks/registry.h"

namespace loza {
namespace {

Document make_window(const char* task, const Haystack* text, const TaskOptions& options,
                     std::int64_t index) {
  if (text == nullptr) {
    throw_usage(fmt::format("task '{}'", task), "a text to read", "none",
                "give a prose or code file");
  }
  Random random = document_random(task, options.seed, index);
  const auto num_pieces = static_cast<std::int64_t>(text->num_pieces());
  const std::int64_t first = random.below(num_pieces);
  std::int64_t taken = 0;
  // A window may go on at the text's beginning, but reads nothing twice: repeated text is
  // too easy to predict.
  const auto next_piece = [&]() -> std::string {
    if (taken == num_pieces) return "";
    return std::string(text->piece(static_cast<std::size_t>((first + taken++) % num_pieces)));
  };
  TaskOptions plain = options;
  plain.spread_to = 0;
  Document document = hide_facts(task, plain, "", {}, next_piece, random);
  document.loss_from = std::min(options.ppl_from, options.length / 2);
  return document;
}

}  // namespace

Document make_ppl(const TaskOptions& options, std::int64_t index) {
  return make_window("ppl", options.prose, options, index);
}

Document make_ppl_code(const TaskOptions& options, std::int64_t index) {
  return make_window("ppl-code", options.code, options, index);
}

}  // namespace loza
