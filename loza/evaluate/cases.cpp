#include "loza/evaluate/cases.h"

#include <fmt/format.h>

#include <charconv>
#include <utility>

#include "loza/base/error.h"
#include "loza/tasks/rows.h"

namespace loza {
namespace {

constexpr std::int64_t kKilo = 1024, kMega = 1024 * 1024;
constexpr std::int64_t kMaxLength = 16 * kMega;

}  // namespace

std::vector<EvalCase> make_cases(const CaseOptions& options) {
  std::vector<EvalCase> cases;
  for (const std::string& task : options.tasks) {
    for (const std::int64_t length : options.lengths) {
      TaskOptions task_options;
      task_options.length = length;
      task_options.seed = options.seed;
      task_options.num_questions = options.num_questions;
      task_options.count_tokens = options.count_tokens;
      task_options.prose = options.prose;
      task_options.code = options.code;
      for (std::int64_t i = 0; i < options.num_documents; ++i) {
        const std::int64_t index = options.first_document + i;
        cases.push_back({task, length, index, make_document(task, task_options, index)});
      }
    }
  }
  return cases;
}

std::vector<EvalCase> load_cases(const std::filesystem::path& path) {
  std::vector<EvalCase> cases;
  std::int64_t num_answers = 0, num_texts = 0;
  for (Document& document : load_rows(path)) {
    const bool is_text = document.turns.empty();
    const std::int64_t index = is_text ? num_texts++ : num_answers++;
    cases.push_back({is_text ? "text" : "answers", 0, index, std::move(document)});
  }
  return cases;
}

std::int64_t parse_length(const std::string& text) {
  std::int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  std::string_view unit(rest, static_cast<std::size_t>(end - rest));
  const std::int64_t factor = unit.empty()                 ? 1
                              : unit == "k" || unit == "K" ? kKilo
                              : unit == "m" || unit == "M" ? kMega
                                                           : 0;
  if (error != std::errc() || factor == 0 || value < 1 || value > kMaxLength / factor) {
    throw_usage("--lengths", fmt::format("tokens from 1 to {}, as 512, 4k or 1m", kMaxLength),
                fmt::format("'{}'", text));
  }
  return value * factor;
}

std::string length_name(std::int64_t length) {
  if (length >= kMega && length % kMega == 0) return fmt::format("{}m", length / kMega);
  if (length >= kKilo && length % kKilo == 0) return fmt::format("{}k", length / kKilo);
  return fmt::format("{}", length);
}

}  // namespace loza
