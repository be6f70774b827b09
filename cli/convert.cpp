#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/pattern_options.h"
#include "loza/base/json.h"
#include "loza/calibrate/convert.h"
#include "loza/calibrate/gates_file.h"
#include "loza/calibrate/select.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/model/config.h"

namespace loza::cli {
namespace {

struct ConvertOptions {
  std::filesystem::path model, out, gates;
  double sparsity = 0.5;
  BlockPattern pattern;
  bool json = false;
};

void convert(const ConvertOptions& options) {
  const Checkpoint checkpoint(options.model);
  const std::int64_t num_modules =
      read_model_config(checkpoint.config(), (options.model / "config.json").string())
          .num_modules();
  const GatesFile gates = read_gates(options.gates, num_modules);
  const Selection selection = select_lowest(gates.alpha, options.sparsity);
  const AttentionPlan plan =
      AttentionPlan::from_choice(selection.streaming, options.pattern, options.gates.string());
  convert_model(options.model, options.out, plan);

  const Json result = {{"model", options.out.string()},
                       {"layer_type", plan.layer_type()},
                       {"num_modules", plan.num_modules()},
                       {"num_streaming", plan.num_streaming()},
                       {"num_tied_at_cut", selection.num_tied_at_cut}};
  if (options.json) {
    fmt::print("{}\n", result.dump());
    return;
  }
  fmt::print("{}: {} of {} modules streaming, {}\n", options.out.string(), plan.num_streaming(),
             plan.num_modules(), plan.layer_type());
  if (selection.num_tied_at_cut > 0) {
    fmt::print("{} modules tie at the cut: their index decided\n", selection.num_tied_at_cut);
  }
}

}  // namespace

void add_convert(CLI::App& app) {
  auto options = std::make_shared<ConvertOptions>();
  CLI::App* command = app.add_subcommand(
      "convert",
      "Write a model with its lowest modules streaming. Only config.json changes; the weights "
      "are the same bytes (hard links where the file system allows)");
  command->add_option("model", options->model, "Model folder")->required();
  command->add_option("out", options->out, "Folder to write")->required();
  command->add_option("--gates", options->gates, "JSON file: {\"alpha\": [one number a module]}")
      ->required();
  command->add_option("--sparsity", options->sparsity, "Share of the modules that stream")
      ->capture_default_str();
  add_pattern_options(*command, options->pattern);
  command->add_flag("--json", options->json, "Print {\"model\", \"layer_type\", ...}");
  command->footer("Example: loza convert SmolLM2 SmolLM2-zigzag --gates gates.json --sparsity 0.5");
  command->callback([options] { convert(*options); });
}

}  // namespace loza::cli
