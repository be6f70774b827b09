#include "loza/evaluate/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "loza/base/check.h"
#include "loza/base/table.h"

namespace loza {
namespace {

// The cases of one task and length, by their places in the list of cases.
struct Group {
  std::string task;
  std::int64_t length = 0;
  std::vector<std::size_t> case_idx;
};

std::vector<Group> group_cases(const std::vector<EvalCase>& cases) {
  std::vector<Group> groups;
  for (std::size_t c = 0; c < cases.size(); ++c) {
    const auto same = [&](const Group& group) {
      return group.task == cases[c].task && group.length == cases[c].length;
    };
    auto group = std::find_if(groups.begin(), groups.end(), same);
    if (group == groups.end()) {
      groups.push_back({cases[c].task, cases[c].length, {}});
      group = groups.end() - 1;
    }
    group->case_idx.push_back(c);
  }
  return groups;
}

std::vector<UnitScore> units_of(const SubjectScores& subject, const Group& group) {
  std::vector<UnitScore> units;
  for (const std::size_t c : group.case_idx) {
    const std::vector<UnitScore>& more = subject.scores[c].units;
    units.insert(units.end(), more.begin(), more.end());
  }
  return units;
}

Cell make_cell(const Group& group, const std::string& subject,
               const std::vector<UnitScore>& units) {
  Cell cell;
  cell.task = group.task;
  cell.length = group.length;
  cell.subject = subject;
  cell.num_documents = static_cast<std::int64_t>(group.case_idx.size());
  std::int64_t hits = 0;
  std::vector<double> nll, tokens;
  for (const UnitScore& unit : units) {
    cell.num_answers += unit.is_answer ? 1 : 0;
    cell.num_tokens += unit.num_tokens;
    hits += unit.exact ? 1 : 0;
    nll.push_back(unit.nll);
    tokens.push_back(static_cast<double>(unit.num_tokens));
  }
  if (cell.num_answers > 0) cell.exact_match = wilson_interval(hits, cell.num_answers);
  cell.nll = bootstrap_ratio(nll, tokens);
  return cell;
}

void note_costs(Cell& cell, const Group& group, const SubjectScores& subject) {
  for (const std::size_t c : group.case_idx) {
    const DocumentScore& score = subject.scores[c];
    cell.seconds += score.seconds / static_cast<double>(cell.num_documents);
    cell.peak_gpu_bytes = std::max(cell.peak_gpu_bytes, score.peak_gpu_bytes);
  }
}

void compare(Cell& cell, const std::vector<UnitScore>& units,
             const std::vector<UnitScore>& baseline) {
  LOZA_CHECK(cell.num_answers == 0 || units.size() == baseline.size(), units.size(),
             baseline.size());
  if (units.size() != baseline.size()) return;  // texts cut by two tokenizers
  std::vector<double> hits, nll, tokens;
  bool same_tokens = true;
  for (std::size_t i = 0; i < units.size(); ++i) {
    hits.push_back(static_cast<double>(units[i].exact) - static_cast<double>(baseline[i].exact));
    nll.push_back(units[i].nll - baseline[i].nll);
    tokens.push_back(static_cast<double>(units[i].num_tokens));
    same_tokens = same_tokens && units[i].num_tokens == baseline[i].num_tokens;
  }
  if (cell.num_answers > 0) {
    cell.exact_match_difference = bootstrap_ratio(hits, std::vector<double>(hits.size(), 1.0));
  }
  if (same_tokens) cell.nll_difference = bootstrap_ratio(nll, tokens);
}

bool is_worse(const Cell& cell) {
  if (cell.num_answers > 0) {
    return cell.exact_match_difference && cell.exact_match_difference->high < 0;
  }
  return cell.nll_difference && cell.nll_difference->low > 0;
}

std::string cell_text(const Cell& cell) {
  const char* star = is_worse(cell) ? "*" : " ";
  if (!cell.exact_match) {
    return fmt::format("{:.3f} [{:.3f}, {:.3f}]{}", cell.nll.value, cell.nll.low, cell.nll.high,
                       star);
  }
  const Interval& hits = *cell.exact_match;
  return fmt::format("{:3.0f} [{:2.0f}, {:3.0f}]{} {:5.2f}", 100 * hits.value, 100 * hits.low,
                     100 * hits.high, star, cell.nll.value);
}

Json optional_interval_json(const std::optional<Interval>& interval) {
  return interval ? interval_json(*interval) : Json();
}

Json cell_json(const Cell& cell) {
  Json out;
  out["task"] = cell.task;
  out["length"] = cell.length;
  out["subject"] = cell.subject;
  out["documents"] = cell.num_documents;
  out["answers"] = cell.num_answers;
  out["tokens"] = cell.num_tokens;
  out["exact_match"] = optional_interval_json(cell.exact_match);
  out["nll"] = interval_json(cell.nll);
  out["exact_match_difference"] = optional_interval_json(cell.exact_match_difference);
  out["nll_difference"] = optional_interval_json(cell.nll_difference);
  out["seconds"] = cell.seconds;
  constexpr double kMebibyte = 1 << 20;
  if (cell.peak_gpu_bytes > 0) {
    out["peak_gpu_mib"] = static_cast<double>(cell.peak_gpu_bytes) / kMebibyte;
  }
  return out;
}

template <typename T>
void add_new(std::vector<T>& items, const T& item) {
  if (std::find(items.begin(), items.end(), item) == items.end()) items.push_back(item);
}

std::string task_table(const EvalReport& report, const std::string& task) {
  std::vector<std::int64_t> lengths;
  bool has_answers = false;
  for (const Cell& cell : report.cells) {
    if (cell.task != task) continue;
    add_new(lengths, cell.length);
    has_answers = has_answers || cell.num_answers > 0;
  }
  std::vector<std::string> header = {task};
  for (const std::int64_t length : lengths) {
    const Cell& cell = *find_cell(report, task, length, report.subjects[0].name);
    const std::string size = has_answers ? fmt::format("{} answers", cell.num_answers)
                                         : fmt::format("{} tokens", cell.num_tokens);
    header.push_back(length == 0 ? size : fmt::format("{}, {}", length_name(length), size));
  }
  Table table(header);
  for (const EvalReport::Subject& subject : report.subjects) {
    std::vector<std::string> row = {subject.name};
    for (const std::int64_t length : lengths) {
      row.push_back(cell_text(*find_cell(report, task, length, subject.name)));
    }
    table.add_row(std::move(row));
  }
  return table.to_string();
}

}  // namespace

EvalReport make_report(const std::vector<EvalCase>& cases,
                       const std::vector<SubjectScores>& subjects) {
  EvalReport report;
  for (const SubjectScores& subject : subjects) {
    LOZA_CHECK(subject.scores.size() == cases.size(), subject.scores.size(), cases.size());
    report.subjects.push_back({subject.name, subject.model, subject.plan.layer_type(),
                               subject.plan.origin, subject.plan.num_streaming()});
  }
  for (const Group& group : group_cases(cases)) {
    std::vector<UnitScore> baseline;
    for (std::size_t s = 0; s < subjects.size(); ++s) {
      const std::vector<UnitScore> units = units_of(subjects[s], group);
      Cell cell = make_cell(group, subjects[s].name, units);
      note_costs(cell, group, subjects[s]);
      if (s == 0) {
        baseline = units;
      } else {
        compare(cell, units, baseline);
      }
      report.cells.push_back(std::move(cell));
    }
  }
  return report;
}

const Cell* find_cell(const EvalReport& report, const std::string& task, std::int64_t length,
                      const std::string& subject) {
  const auto found = std::find_if(report.cells.begin(), report.cells.end(), [&](const Cell& cell) {
    return cell.task == task && cell.length == length && cell.subject == subject;
  });
  return found == report.cells.end() ? nullptr : &*found;
}

bool within_interval(const Cell& cell, const Cell& baseline) {
  if (cell.exact_match && baseline.exact_match) {
    return cell.exact_match->value >= baseline.exact_match->low;
  }
  return cell.nll.value <= baseline.nll.high;
}

std::string report_tables(const EvalReport& report) {
  std::vector<std::string> tasks;
  for (const Cell& cell : report.cells) add_new(tasks, cell.task);
  std::string out;
  for (const std::string& task : tasks) out += task_table(report, task) + "\n";
  out +=
      "Answers: exact matches in percent [95 % interval], then nats per answer token. Texts: "
      "nats per token.\n";
  if (report.subjects.size() > 1) {
    out += fmt::format("*: worse than {} on the same documents, beyond the paired 95 % interval.\n",
                       report.subjects[0].name);
  }
  return out;
}

Json interval_json(const Interval& interval) {
  return Json{{"value", interval.value}, {"low", interval.low}, {"high", interval.high}};
}

Json report_json(const EvalReport& report) {
  Json out;
  out["subjects"] = Json::array();
  for (const EvalReport::Subject& subject : report.subjects) {
    out["subjects"].push_back(Json{{"name", subject.name},
                                   {"model", subject.model},
                                   {"origin", subject.origin},
                                   {"streaming_modules", subject.num_streaming},
                                   {"layer_type", subject.layer_type}});
  }
  out["cells"] = Json::array();
  for (const Cell& cell : report.cells) out["cells"].push_back(cell_json(cell));
  return out;
}

}  // namespace loza
