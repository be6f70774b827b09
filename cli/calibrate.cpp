#include "loza/calibrate/calibrate.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/data_options.h"
#include "cli/group_options.h"
#include "cli/model_options.h"
#include "cli/pattern_options.h"
#include "loza/base/error.h"
#include "loza/base/json.h"
#include "loza/calibrate/gates_file.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/evaluate/cases.h"
#include "loza/model/transformer.h"
#include "loza/tokenizer/tokenizer.h"
#include "loza/train/data.h"

namespace loza::cli {
namespace {

namespace fs = std::filesystem;

struct CalibrateCommand {
  fs::path model, out;
  CalibrateOptions calibrate;
  DataOptions data;
  GroupOptions group;
  std::string length;
  ModelOptions placement;
  double sparsity = 0.5;
  bool keep_last = false, no_clamp = false, json = false;
};

// Long enough that most of the document is beyond what a streaming module sees whole, which is
// where modules differ.
std::int64_t default_length(const BlockPattern& pattern) { return pattern.exact_len() * 11 / 4; }

// The generated tasks; those that need a text only where there is one.
std::string default_sources(const DataOptions& data) {
  if (!data.prose.empty() || !data.code.empty()) return "lines,niah,noise";
  spdlog::info("calibrating on lines and noise; with --prose or --code also on niah");
  return "lines,noise";
}

DataOptions data_options(const CalibrateCommand& options) {
  DataOptions data = options.data;
  data.length = options.length.empty() ? default_length(options.calibrate.pattern)
                                       : parse_length(options.length);
  if (data.sources.empty()) data.sources = default_sources(data);
  return data;
}

Calibration run(const CalibrateCommand& options, Group& group) {
  CalibrateOptions calibrate_options = options.calibrate;
  calibrate_options.clamp = !options.no_clamp;
  calibrate_options.average = !options.keep_last;
  const Checkpoint checkpoint(options.model);
  const CriterionInfo* criterion = find_criterion(calibrate_options.criterion);
  const Transformer model = load_model(checkpoint, options.placement, group);
  if (criterion != nullptr && !criterion->needs_documents) {
    return calibrate(model, {}, calibrate_options, group);
  }
  const Tokenizer tokenizer = Tokenizer::from_folder(options.model);
  return calibrate(model, Data(data_options(options), tokenizer), calibrate_options, group);
}

void calibrate_command(const CalibrateCommand& options, Group& group) {
  const Calibration calibration = run(options, group);
  if (!group.is_first()) return;
  if (!options.out.empty()) write_gates(options.out, calibration);
  if (options.json) {
    fmt::print("{}\n", report_json(calibration, options.sparsity).dump());
  } else {
    fmt::print("{}", report_text(calibration, options.sparsity));
    if (!options.out.empty()) fmt::print("written to {}\n", options.out.string());
  }
}

std::string describe_criteria() {
  std::string text = "How gates are found:";
  for (const CriterionInfo& row : criteria()) {
    text += fmt::format("{} {} ({})", &row == &criteria()[0] ? "" : ",", row.name, row.description);
  }
  return text;
}

void add_data_options(CLI::App& command, CalibrateCommand& options) {
  command.add_option("--data", options.data.sources,
                     "Documents with answers, comma separated: generated tasks (see loza "
                     "eval --help) and files (JSONL rows or text); default: lines, noise and, "
                     "where there is a text, niah");
  command.add_option("--length", options.length,
                     "Tokens of a generated document, as in 700 or 2k; default: 2.75 times what "
                     "a streaming module sees whole");
  add_document_options(command, options.data);
}

void add_alpha_options(CLI::App& command, CalibrateCommand& options) {
  using Loss = CalibrateOptions::Loss;
  using LrDecay = CalibrateOptions::LrDecay;
  CalibrateOptions& calibrate = options.calibrate;
  const std::map<std::string, Loss> losses = {{"distill", Loss::kDistill}, {"lm", Loss::kLm}};
  const std::map<std::string, LrDecay> decays = {{"constant", LrDecay::kConstant},
                                                 {"trapezoid", LrDecay::kTrapezoid}};
  command
      .add_option("--loss", calibrate.loss,
                  "alpha: distill (difference to the full model's hidden states at answers) or lm "
                  "(NLL of the answers)")
      ->transform(CLI::CheckedTransformer(losses))
      ->default_str("distill");
  command.add_option("--lr", calibrate.lr, "alpha: learning rate")->capture_default_str();
  command.add_option("--lr-decay", calibrate.lr_decay, "alpha: constant or trapezoid")
      ->transform(CLI::CheckedTransformer(decays))
      ->default_str("constant");
  command.add_option("--l1", calibrate.l1, "alpha: weight of the mean gate")->capture_default_str();
  command.add_option("--start", calibrate.start, "alpha: every gate's first value")
      ->capture_default_str();
  command.add_flag("--no-clamp", options.no_clamp, "alpha: let gates leave [0, 1]");
  command.add_flag("--keep-last", options.keep_last,
                   "alpha: take the last step's gates instead of their mean over the steps");
}

}  // namespace

void add_calibrate(CLI::App& app) {
  auto options = std::make_shared<CalibrateCommand>();
  CLI::App* command = app.add_subcommand(
      "calibrate",
      "Find which attention modules must see everything: one number a module, high = must. No "
      "weight changes");
  command->add_option("model", options->model, "Model folder")->required();
  command->add_option("--criterion", options->calibrate.criterion, describe_criteria())
      ->capture_default_str();
  command->add_option("--out", options->out, "Gates file to write (JSON)");
  command->add_option("--seeds", options->calibrate.num_seeds, "Runs on different documents")
      ->capture_default_str();
  command->add_option("--first-seed", options->calibrate.first_seed, "Seed of the first run")
      ->capture_default_str();
  command->add_option("--steps", options->calibrate.num_steps, "Steps a seed")
      ->capture_default_str();
  command->add_option("--batch", options->calibrate.documents_per_step, "Documents a step")
      ->capture_default_str();
  add_data_options(*command, *options);
  add_pattern_options(*command, options->calibrate.pattern);
  add_alpha_options(*command, *options);
  command
      ->add_option("--sparsity", options->sparsity,
                   "What the report says each module becomes; the gates do not depend on it")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  add_model_options(*command, options->placement);
  add_group_options(*command, options->group);
  command->add_flag("--json", options->json, "Print one JSON object");
  command->footer(
      "Example: loza calibrate SmolLM2-135M-Instruct --seeds 2 --out gates.json\n"
      "Several processes: torchrun --no-python --nproc-per-node 4 loza calibrate MODEL --batch 4 "
      "--out gates.json");
  command->callback([options] {
    run_in_group(options->group, [&](Group& group) { calibrate_command(*options, group); });
  });
}

}  // namespace loza::cli
