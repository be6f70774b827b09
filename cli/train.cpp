#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cli/commands.h"
#include "cli/data_options.h"
#include "cli/group_options.h"
#include "cli/loss_plot.h"
#include "cli/model_options.h"
#include "cli/peak_memory.h"
#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/base/json.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/evaluate/cases.h"
#include "loza/model/new_model.h"
#include "loza/model/transformer.h"
#include "loza/tokenizer/tokenizer.h"
#include "loza/train/finetune.h"

namespace loza::cli {
namespace {

namespace fs = std::filesystem;

struct TrainCommand {
  ModelOptions placement;
  fs::path model, target;
  fs::path init, tokenizer;  // in place of `model`
  FinetuneOptions finetune;
  GroupOptions group;
  std::string lengths = "2k", data = "lines,noise", spread_to = "0";
  std::int64_t num_steps = 100;
  double lr = 1e-4, final_ratio = 0.1, warmup_share = 0.05;
  bool json = false;
};

// "2k:80,8k:20", or "2k" for all of num_steps.
std::vector<LengthStage> parse_curriculum(const std::string& text, std::int64_t num_steps) {
  std::vector<LengthStage> stages;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string stage = text.substr(begin, end - begin);
    const std::size_t colon = stage.find(':');
    LengthStage parsed{parse_length(stage.substr(0, colon)), num_steps};
    if (colon != std::string::npos) {
      const char* const last = stage.data() + stage.size();
      const auto [rest, error] = std::from_chars(stage.data() + colon + 1, last, parsed.num_steps);
      if (error != std::errc() || rest != last || parsed.num_steps < 1) {
        throw_usage("--length", "LENGTH or LENGTH:STEPS,...", fmt::format("'{}'", text));
      }
    }
    stages.push_back(parsed);
    begin = end + 1;
  }
  if (stages.size() > 1 && text.find(':') == std::string::npos) {
    throw_usage("--length", "steps for each of several lengths, as in 2k:80,8k:20",
                fmt::format("'{}'", text));
  }
  return stages;
}

FinetuneOptions finetune_options(const TrainCommand& command) {
  FinetuneOptions options = command.finetune;
  options.data.sources = command.data;
  if (command.spread_to != "0") options.data.spread_to = parse_length(command.spread_to);
  options.curriculum = parse_curriculum(command.lengths, command.num_steps);
  const std::int64_t num_steps = loza::num_steps(options.curriculum);
  Schedule& schedule = options.train.schedule;
  schedule.peak = command.lr;
  schedule.warmup_steps = static_cast<std::int64_t>(command.warmup_share * num_steps);
  schedule.decay = Schedule::Decay::kCosine;
  schedule.decay_steps = num_steps - schedule.warmup_steps;
  schedule.final_ratio = command.final_ratio;
  if (options.run.empty()) options.run = fs::path(command.target.string() + ".run");
  return options;
}

Json step_json(const StepReport& step) {
  return {{"step", step.step},           {"loss", step.loss}, {"loss_by_kind", step.loss_by_kind},
          {"grad_norm", step.grad_norm}, {"lr", step.lr},     {"tokens", step.num_tokens},
          {"skipped", step.skipped}};
}

// A line a step, written as they come: what a killed run has done stays readable. A resumed run
// goes on below; of a step that it did again the later line counts.
class StepLog {
 public:
  StepLog(const fs::path& path, bool append)
      : file_(path, append ? std::ios::app : std::ios::trunc), path_(path) {
    if (!file_) throw Error(ExitCode::kFailed, {path.string(), "to be written", "no", ""});
  }
  void append(const StepReport& step) {
    file_ << step_json(step).dump() << '\n' << std::flush;
    if (!file_) throw Error(ExitCode::kFailed, {path_.string(), "to be written", "disk full?", ""});
  }

 private:
  std::ofstream file_;
  fs::path path_;
};

std::int64_t length_of_step(const std::vector<LengthStage>& curriculum, std::int64_t step) {
  for (const LengthStage& stage : curriculum) {
    if (step < stage.num_steps) return stage.length;
    step -= stage.num_steps;
  }
  return curriculum.back().length;
}

// A tenth of the steps, one at least: so many at either end show what a run has done.
std::size_t tenth_of(const std::vector<StepReport>& steps) {
  return std::max<std::size_t>(1, steps.size() / 10);
}

// Mean over the steps that have the kind; NaN where none has.
double mean_loss(std::span<const StepReport> steps, const std::string& kind) {
  double sum = 0;
  std::int64_t seen = 0;
  for (const StepReport& step : steps) {
    const auto found = step.loss_by_kind.find(kind);
    if (found == step.loss_by_kind.end()) continue;
    sum += found->second;
    ++seen;
  }
  return seen > 0 ? sum / static_cast<double>(seen) : NAN;
}

std::vector<std::string> kinds_of(const std::vector<StepReport>& steps) {
  std::map<std::string, int> kinds;
  for (const StepReport& step : steps) {
    for (const auto& [kind, loss] : step.loss_by_kind) ++kinds[kind];
  }
  std::vector<std::string> names;
  for (const auto& [kind, count] : kinds) names.push_back(kind);
  return names;
}

void print_report(const FinetuneReport& report, const TrainCommand& command, const fs::path& run,
                  const PeakMemory& memory) {
  const std::span steps(report.steps);
  const std::size_t count = std::min(tenth_of(report.steps), steps.size());
  const auto first = steps.first(count), last = steps.last(count);
  const double rate =
      report.seconds > 0 ? static_cast<double>(report.num_tokens) / report.seconds : 0;
  if (command.json) {
    Json kinds = Json::object();
    for (const std::string& kind : kinds_of(report.steps)) {
      kinds[kind] = {{"first", mean_loss(first, kind)}, {"last", mean_loss(last, kind)}};
    }
    Json peaks = Json::object();
    for (const auto& [length, peak] : memory.by_length()) peaks[fmt::format("{}", length)] = peak;
    const Json result = {{"steps", report.steps.size()},       {"first_step", report.first_step},
                         {"skipped", report.num_skipped},      {"tokens", report.num_tokens},
                         {"seconds", report.seconds},          {"tokens_per_s", rate},
                         {"peak_mib", memory.whole()},         {"peak_mib_by_length", peaks},
                         {"peak_gpu_mib", memory.on_gpu()},    {"loss", kinds},
                         {"log", (run / "log.jsonl").string()}};
    fmt::print("{}\n", result.dump());
    return;
  }
  fmt::print("| loss | first tenth | last tenth |\n| ---- | ----------: | ---------: |\n");
  for (const std::string& kind : kinds_of(report.steps)) {
    fmt::print("| {} | {:.4f} | {:.4f} |\n", kind, mean_loss(first, kind), mean_loss(last, kind));
  }
  fmt::print(
      "\n{} steps, {} skipped, {} tokens in {:.0f} s ({:.0f} tokens/s), peak memory {:.0f} MiB{}\n",
      report.steps.size(), report.num_skipped, report.num_tokens, report.seconds, rate,
      memory.whole(),
      memory.on_gpu() > 0 ? fmt::format(", {:.0f} MiB of the GPU's", memory.on_gpu()) : "");
  if (memory.by_length().size() > 1) {
    for (const auto& [length, peak] : memory.by_length()) {
      fmt::print("at {} tokens: peak memory {:.0f} MiB\n", length, peak);
    }
  }
  fmt::print("model {}, log {}, plot {}\n", command.target.string(), (run / "log.jsonl").string(),
             (run / "loss.svg").string());
}

// The folder that training begins with: the one named, or a new model in the run's folder, which
// rank 0 makes for all.
fs::path model_to_train(const TrainCommand& command, const FinetuneOptions& options, Group& group) {
  if (command.init.empty()) return command.model;
  require_new_folder(command.target);
  const fs::path folder = options.run / "initial";
  if (group.is_first())
    ensure_new_model({command.init, command.tokenizer, options.train.seed}, folder);
  group.gather(0);
  return folder;
}

void train_command(const TrainCommand& command, Group& group) {
  const FinetuneOptions options = finetune_options(command);
  const fs::path model_folder = model_to_train(command, options, group);
  const Checkpoint checkpoint(model_folder);
  const Tokenizer tokenizer = Tokenizer::from_folder(model_folder);
  Transformer model = load_model(checkpoint, command.placement, group);
  std::optional<StepLog> log;
  if (group.is_first()) {
    fs::create_directories(options.run);
    log.emplace(options.run / "log.jsonl", options.resume);
  }
  PeakMemory memory(model.device());
  const auto after_step = [&](const StepReport& step) {
    if (log) log->append(step);
    memory.note(length_of_step(options.curriculum, step.step));
  };
  const FinetuneReport report =
      finetune(model, checkpoint, tokenizer, options, command.target, after_step, group);
  if (!group.is_first()) return;
  if (!report.steps.empty()) {
    write_file_atomic(options.run / "loss.svg", loss_plot(report.steps));
  }
  print_report(report, command, options.run, memory);
}

void add_folders(CLI::App& app, TrainCommand& command) {
  app.add_option("model", command.model, "Model folder; none with --init");
  app.add_option("out", command.target, "New model folder");
  CLI::Option* init =
      app.add_option("--init", command.init,
                     "Train from scratch: a config.json of any family that loza knows; random "
                     "weights as transformers begins them, kept in the run's folder");
  CLI::Option* tokenizer = app.add_option("--tokenizer", command.tokenizer,
                                          "With --init: a tokenizer.json or a folder that has one");
  init->needs(tokenizer);
  tokenizer->needs(init);
}

// With --init the one folder that is named is the new one.
void settle_folders(TrainCommand& command) {
  if (!command.init.empty() && command.target.empty()) std::swap(command.model, command.target);
  if (command.target.empty()) throw CLI::RequiredError(command.model.empty() ? "model" : "out");
  if (!command.init.empty() && !command.model.empty()) {
    throw_usage("--init", "one folder, the new one", "a model folder too");
  }
}

void add_data_options(CLI::App& app, TrainCommand& command) {
  app.add_option("--data", command.data,
                 "What is mixed, comma separated: generated tasks (see loza eval --help) and files "
                 "(JSONL rows or text); NAME*3 comes three times as often")
      ->capture_default_str();
  app.add_option("--length", command.lengths,
                 "Tokens of a generated document and of a text's window: 2k, or a curriculum, "
                 "LENGTH:STEPS,LENGTH:STEPS")
      ->capture_default_str();
  add_document_options(app, command.finetune.data);
  app.add_option("--spread-to", command.spread_to,
                 "Positions that a generated document spans, jumping at its haystack, as in 1m; "
                 "0: as many as it has tokens")
      ->capture_default_str();
  app.add_option("--spread-share", command.finetune.data.spread_share,
                 "Share of the generated documents that are spread")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--seed", command.finetune.train.seed, "Of the documents and of --init's weights")
      ->capture_default_str();
}

void add_optimiser_options(CLI::App& app, TrainCommand& command) {
  TrainOptions& train = command.finetune.train;
  app.add_option("--steps", command.num_steps, "Optimiser steps, where --length gives none")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40))
      ->capture_default_str();
  app.add_option("--batch", train.documents_per_step, "Documents a step")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20))
      ->capture_default_str();
  app.add_option("--pass-tokens", train.tokens_per_pass,
                 "Documents of a step share a pass up to so many tokens; memory grows with it")
      ->capture_default_str();
  app.add_option("--lr", command.lr, "Learning rate at its highest")->capture_default_str();
  app.add_option("--warmup", command.warmup_share, "Share of the steps over which it rises")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--final-lr", command.final_ratio, "Where its cosine falls to, as a share")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--weight-decay", train.optimizer.weight_decay, "AdamW's")->capture_default_str();
  app.add_option("--clip", train.clip_norm, "Longest gradient; 0: any")->capture_default_str();
}

void add_loss_options(CLI::App& app, TrainCommand& command) {
  using On = LmLossOptions::On;
  LmLossOptions& loss = command.finetune.loss;
  const std::map<std::string, On> on = {{"answers", On::kAnswers}, {"all", On::kAll}};
  app.add_option("--loss-on", loss.on, "answers (and plain texts whole), or all tokens")
      ->transform(CLI::CheckedTransformer(on))
      ->default_str("answers");
  app.add_option("--text-weight", loss.text_weight, "Of plain texts' loss beside the answers'")
      ->capture_default_str();
  app.add_flag("--recompute", loss.recompute,
               "Keep one layer's activations at a time: a third more work, memory for long texts");
}

}  // namespace

void add_train(CLI::App& app) {
  auto command = std::make_shared<TrainCommand>();
  FinetuneOptions& finetune = command->finetune;
  finetune.train.clip_norm = 1;
  finetune.train.tokens_per_pass = 4096;
  finetune.train.optimizer.beta2 = 0.95;
  CLI::App* train = app.add_subcommand(
      "train",
      "Train a model under its attention plan, all weights, and write it as a new folder: what "
      "recovers quality after conversion; with --init from scratch");
  add_folders(*train, *command);
  add_data_options(*train, *command);
  add_optimiser_options(*train, *command);
  add_loss_options(*train, *command);
  train->add_option("--run", finetune.run, "Folder of log, plot and snapshots (default: OUT.run)");
  train->add_option("--save-every", finetune.save_every, "Steps between snapshots; 0: at the end")
      ->capture_default_str();
  train->add_flag("--resume", finetune.resume, "Go on from the newest snapshot of the run");
  add_model_options(*train, command->placement);
  add_group_options(*train, command->group);
  train->add_flag("--json", command->json, "Print one JSON object");
  train->footer(
      "Example: loza train my-zigzag my-recovered --data lines,noise,code.py*2 --steps 100 --batch "
      "8\n"
      "Example: loza train --init config.json --tokenizer my-tokenizer my-model --data "
      "prose.txt,lines --length 512 --steps 1000 --batch 16\n"
      "Several processes: torchrun --no-python --nproc-per-node 4 loza train my-zigzag "
      "my-recovered "
      "--batch 8");
  train->callback([command] {
    settle_folders(*command);
    run_in_group(command->group, [&](Group& group) { train_command(*command, group); });
  });
}

}  // namespace loza::cli
