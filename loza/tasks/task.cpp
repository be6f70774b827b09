#include "loza/tasks/task.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "loza/base/check.h"
#include "loza/base/error.h"
#include "loza/tasks/needles.h"
#include "loza/tasks/registry.h"

namespace loza {

namespace {

const TaskSuffix kWording = {"wording", &TaskOptions::wording, 0, kNumWordings - 1};
const TaskSuffix kHopWording = {"wording", &TaskOptions::wording, 0, 1};
const TaskSuffix kHops = {"hops", &TaskOptions::num_hops, 1, 16};

// "niah:2" -> "niah", "2"; without a suffix the second is empty.
std::pair<std::string_view, std::string_view> split_suffix(std::string_view name) {
  const std::size_t colon = name.find(':');
  if (colon == name.npos) return {name, {}};
  return {name.substr(0, colon), name.substr(colon + 1)};
}

// The options of the task that the name says.
TaskOptions apply_suffix(std::string_view name, const TaskInfo& task, TaskOptions options) {
  if (task.suffix == nullptr) return options;
  const auto [base, number] = split_suffix(name);
  std::int64_t& value = options.*task.suffix->option;
  const char* const end = number.data() + number.size();
  const bool is_number =
      base == name || (!number.empty() && std::from_chars(number.data(), end, value) ==
                                              std::from_chars_result{end, std::errc()});
  if (!is_number || value < task.suffix->min || value > task.suffix->max) {
    throw_usage(
        fmt::format("task '{}'", name),
        fmt::format("{} from {} to {}", task.suffix->name, task.suffix->min, task.suffix->max),
        is_number ? fmt::format("{}", value) : fmt::format("'{}'", number),
        fmt::format("write {}:{}", task.name, task.suffix->max));
  }
  return options;
}

}  // namespace

const std::vector<TaskInfo>& tasks() {
  static const std::vector<TaskInfo> rows = {
      {"lines", "find numbers in thousands of lines that look alike", make_lines},
      {"niah", "find sentences with numbers in prose or code", make_niah, &kWording},
      {"noise", "find sentences with numbers among repeated sentences", make_noise, &kWording},
      {"niah-single-1", "find numbers in noise", make_niah_single_1, &kWording},
      {"niah-single-2", "find numbers in prose", make_niah_single_2, &kWording},
      {"niah-single-3", "find UUIDs in prose", make_niah_single_3, &kWording},
      {"niah-multikey-1", "find some of many numbers in prose", make_niah_multikey_1, &kWording},
      {"niah-multikey-2", "find numbers among nothing but their like", make_niah_multikey_2,
       &kWording},
      {"niah-multikey-3", "find UUIDs by UUIDs among nothing but their like", make_niah_multikey_3,
       &kWording},
      {"niah-multivalue", "find all four numbers of a name", make_niah_multivalue, &kWording},
      {"niah-multiquery", "find the numbers of four names", make_niah_multiquery, &kWording},
      {"vt", "follow chains of variables that take each other's value", make_vt, &kHops},
      {"vt-2", "find the value behind a variable that refers to another", make_vt_2, &kHopWording},
      {"cwe", "name the ten words that come most often in a list", make_cwe},
      {"fwe", "name the three most frequent words of a coded text", make_fwe},
      {"mrcr-2", "repeat one of two texts that were asked for alike", make_mrcr_2},
      {"mrcr-4", "repeat one of four texts that were asked for alike", make_mrcr_4},
      {"copy", "repeat lines of random words", make_copy},
      {"ppl", "predict prose", make_ppl},
      {"ppl-code", "predict code", make_ppl_code},
  };
  return rows;
}

const TaskInfo* find_task(std::string_view name) {
  const auto& rows = tasks();
  const auto row = std::find_if(rows.begin(), rows.end(), [&](const TaskInfo& task) {
    return task.name == name || (task.suffix != nullptr && task.name == split_suffix(name).first);
  });
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
  if (options.spread_to < 0) {
    throw_usage(fmt::format("task '{}': positions to spread to", task), "0 or more",
                fmt::format("{}", options.spread_to));
  }
  return info->make(apply_suffix(task, *info, options), index);
}

Random document_random(std::string_view task, std::uint64_t seed, std::int64_t index) {
  // FNV-1a of the name keeps tasks of one seed apart.
  std::uint64_t hash = 14695981039346656037ull;
  for (const char c : task) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  const std::uint64_t by_seed = Random(hash ^ Random(seed).next()).next();
  return Random(Random(by_seed + static_cast<std::uint64_t>(index)).next());
}

}  // namespace loza
