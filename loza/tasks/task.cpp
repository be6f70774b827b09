#include "loza/tasks/task.h"

#include <fmt/format.h>

#include <algorithm>

#include "loza/base/check.h"
#include "loza/base/error.h"
#include "loza/tasks/registry.h"

namespace loza {

const std::vector<TaskInfo>& tasks() {
  static const std::vector<TaskInfo> rows = {
      {"lines", "find numbers in thousands of lines that look alike", make_lines},
      {"niah", "find sentences with numbers in prose or code", make_niah},
      {"noise", "find sentences with numbers among repeated sentences", make_noise},
      {"ppl", "predict prose", make_ppl},
      {"ppl-code", "predict code", make_ppl_code},
  };
  return rows;
}

const TaskInfo* find_task(std::string_view name) {
  const auto& rows = tasks();
  const auto row = std::find_if(rows.begin(), rows.end(),
                                [&](const TaskInfo& task) { return task.name == name; });
  return row == rows.end() ? nullptr : &*row;
}

Document make_document(std::string_view task, const TaskOptions& options, std::int64_t index) {
  LOZA_CHECK(options.count_tokens != nullptr);
  LOZA_CHECK(index >= 0, index);
  const TaskInfo* info = find_task(task);
  if (info == nullptr) {
    std::string names;
    for (const TaskInfo& row : tasks())
      names += fmt::format("{}{}", names.empty() ? "" : ", ", row.name);
    throw_usage("task", fmt::format("one of {}", names), fmt::format("'{}'", task));
  }
  if (options.num_questions < 1 || options.num_questions > 1000) {
    throw_usage(fmt::format("task '{}': questions", task), "1 to 1000",
                fmt::format("{}", options.num_questions));
  }
  if (options.length < 2) {
    throw_usage(fmt::format("task '{}': length", task), "at least 2 tokens",
                fmt::format("{}", options.length));
  }
  return info->make(options, index);
}

Random document_random(std::string_view task, std::uint64_t seed, std::int64_t index) {
  // FNV-1a of the name keeps tasks of one seed apart.
  std::uint64_t hash = 14695981039346656037ull;
  for (const char c : task) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  const std::uint64_t by_seed = Random(hash ^ Random(seed).next()).next();
  return Random(Random(by_seed + static_cast<std::uint64_t>(index)).next());
}

}  // namespace loza
