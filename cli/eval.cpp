#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/commands.h"
#include "cli/data_options.h"
#include "cli/model_options.h"
#include "cli/named_plans.h"
#include "loza/base/error.h"
#include "loza/base/json.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/evaluate/cases.h"
#include "loza/evaluate/report.h"
#include "loza/evaluate/run.h"
#include "loza/model/transformer.h"
#include "loza/tokenizer/tokenizer.h"

namespace loza::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCachedProse = ".cache/text/prose.txt";
constexpr const char* kCachedCode = ".cache/text/code.txt";

struct EvalOptions {
  std::vector<fs::path> models;
  std::vector<std::string> tasks = {"lines", "niah", "noise", "ppl"};
  std::vector<std::string> lengths = {"1k", "2k", "4k"};
  std::int64_t num_documents = 4;
  std::uint64_t seed = 0;
  DataOptions documents;  // questions and texts of the generated ones
  fs::path data;          // a user's rows instead of tasks
  std::vector<std::string> plans;
  std::vector<fs::path> gates;
  PlanOptions plan;
  std::int64_t window_len = 0;
  ModelOptions placement;
  bool json = false;
};

std::string folder_name(const fs::path& folder) {
  return fs::absolute(folder).lexically_normal().filename().string();
}

// The text that was asked for, else the one of scripts/setup, if it is there.
std::optional<Haystack> open_haystack(const fs::path& path, const char* cached) {
  if (!path.empty()) return Haystack::from_file(path);
  if (!fs::exists(cached)) return {};
  return Haystack::from_file(cached);
}

std::vector<EvalCase> generated_cases(const EvalOptions& options, const Tokenizer& tokenizer) {
  const auto prose = open_haystack(options.documents.prose, kCachedProse);
  const auto code = open_haystack(options.documents.code, kCachedCode);
  CaseOptions case_options;
  case_options.tasks = options.tasks;
  for (const std::string& text : options.lengths) {
    case_options.lengths.push_back(parse_length(text));
  }
  case_options.num_documents = options.num_documents;
  case_options.num_questions = options.documents.num_questions;
  case_options.seed = options.seed;
  case_options.prose = prose ? &*prose : nullptr;
  case_options.code = code ? &*code : nullptr;
  case_options.count_tokens = [&](std::string_view text) {
    return static_cast<std::int64_t>(tokenizer.encode(text).size());
  };
  return make_cases(case_options);
}

// Without --plans and --gates: as config.json says. "config" is the dense plan where the file
// says nothing, and is left out beside "dense" then.
std::vector<NamedPlan> make_plans(const EvalOptions& options, const Transformer& model,
                                  const Checkpoint& checkpoint) {
  std::vector<std::string> names = options.plans;
  if (names.empty() && options.gates.empty()) names = {"config"};
  std::vector<NamedPlan> plans;
  for (const std::string& name : names) {
    plans.push_back(plan_by_name(name, model, checkpoint, options.plan));
  }
  for (const fs::path& gates : options.gates) {
    plans.push_back(plan_from_gates(gates, model, options.plan));
  }
  return plans;
}

// Table rows: the plan alone where there is one model, the model alone where each has one plan.
std::string subject_name(const std::string& model, const std::string& plan,
                         const EvalOptions& options, std::size_t num_plans) {
  if (options.models.size() == 1) return plan == "config" ? model : plan;
  return num_plans == 1 ? model : fmt::format("{}, {}", model, plan);
}

// "name", "name (2)", ...: two folders or gate files may be called alike.
void make_names_unique(std::vector<SubjectScores>& subjects) {
  for (std::size_t i = 0; i < subjects.size(); ++i) {
    const std::string name = subjects[i].name;
    const auto taken = [&](const std::string& wanted) {
      return std::any_of(subjects.begin(), subjects.begin() + static_cast<std::ptrdiff_t>(i),
                         [&](const SubjectScores& other) { return other.name == wanted; });
    };
    for (int n = 2; taken(subjects[i].name); ++n)
      subjects[i].name = fmt::format("{} ({})", name, n);
  }
}

// A line a task: its name, its suffix, what it asks.
std::string task_list() {
  std::string text;
  for (const TaskInfo& task : tasks()) {
    const std::string range =
        task.suffix == nullptr
            ? ""
            : fmt::format(" ({} {} to {})", task.suffix->name, task.suffix->min, task.suffix->max);
    text += fmt::format("  {:<16} {}{}\n", task.name, task.description, range);
  }
  return text;
}

// What a script asks of its own rows: the first subject's numbers in front.
Json rows_json(const EvalReport& report, const std::vector<EvalCase>& cases) {
  const std::string& first = report.subjects[0].name;
  const Cell* answers = find_cell(report, "answers", 0, first);
  const Cell* text = find_cell(report, "text", 0, first);
  Json out;
  out["rows"] = cases.size();
  out["answers"] = answers != nullptr ? answers->num_answers : 0;
  out["answer_tokens"] = answers != nullptr ? answers->num_tokens : 0;
  out["exact_match"] = answers != nullptr ? Json(answers->exact_match->value) : Json();
  out["answer_nll"] = answers != nullptr ? Json(answers->nll.value) : Json();
  out["text_tokens"] = text != nullptr ? text->num_tokens : 0;
  out["text_nll"] = text != nullptr ? Json(text->nll.value) : Json();
  return out;
}

void print_report(const EvalOptions& options, const EvalReport& report,
                  const std::vector<EvalCase>& cases) {
  if (!options.json) {
    fmt::print("{}", report_tables(report));
    return;
  }
  Json out = options.data.empty() ? Json::object() : rows_json(report, cases);
  const Json details = report_json(report);
  for (const auto& [name, value] : details.items()) out[name] = value;
  fmt::print("{}\n", out.dump());
}

void eval(const EvalOptions& options) {
  std::vector<EvalCase> cases;
  std::vector<SubjectScores> subjects;
  for (const fs::path& folder : options.models) {
    const Checkpoint checkpoint(folder);
    const Tokenizer tokenizer = Tokenizer::from_folder(folder);
    const Transformer model = load_model(checkpoint, options.placement);
    if (cases.empty()) {
      cases = options.data.empty() ? generated_cases(options, tokenizer) : load_cases(options.data);
    }
    const std::vector<NamedPlan> plans = make_plans(options, model, checkpoint);
    const std::string name = folder_name(folder);
    const std::int64_t window_len =
        options.window_len > 0 ? options.window_len : model.config().max_position;
    for (SubjectScores& scores :
         score_cases(model, tokenizer, name, plans, cases,
                     {.title = "evaluating " + name, .window_len = window_len})) {
      scores.name = subject_name(name, scores.name, options, plans.size());
      subjects.push_back(std::move(scores));
    }
  }
  make_names_unique(subjects);
  print_report(options, make_report(cases, subjects), cases);
}

}  // namespace

void add_eval(CLI::App& app) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App* command = app.add_subcommand(
      "eval",
      "Ask models questions with known answers and score them, teacher-forced: exact match of "
      "each answer and the NLL of its tokens, with 95 % intervals, models and plans side by side "
      "on the same documents. Tasks are listed below; or your own rows");
  command->add_option("models", options->models, "Model folders")->required();
  command->add_option("--tasks", options->tasks, "Generated tasks")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--lengths", options->lengths, "Tokens of a document, as in 512,4k")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--documents", options->num_documents, "Of each task and length")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Of the documents")->capture_default_str();
  add_document_options(*command, options->documents);
  command->add_option("--data", options->data,
                      "Score these rows instead: JSONL of {\"text\"}, {\"prompt\", \"answer\"} or "
                      "{\"prompt\", \"turns\"}, or a plain text");
  command
      ->add_option("--plans", options->plans,
                   "config, dense, streaming, interleaved, interleaved-odd, first, last, "
                   "random:SEED (default: as config.json says)")
      ->delimiter(',');
  add_plan_options(*command, options->gates, options->plan);
  command
      ->add_option("--window", options->window_len,
                   "Longer plain texts are cut to so many tokens (default: what the model is "
                   "made for)")
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 24));
  add_model_options(*command, options->placement);
  add_weights_option(*command, options->placement);
  command->add_flag("--json", options->json, "Print one JSON object");
  command->footer(fmt::format(
      "Tasks:\n{}\nA number behind a task's name chooses its wording or its hops, as in niah:2 or "
      "vt:1.\nWithout --prose and --code, {} and {} are read where they are there.\n\n"
      "Example: loza eval smollm2 smollm2-zigzag --tasks niah,niah:1,vt,ppl --lengths 2k,4k",
      task_list(), kCachedProse, kCachedCode));
  command->callback([options] { eval(*options); });
}

}  // namespace loza::cli
