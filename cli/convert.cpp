#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "cli/commands.h"
#include "cli/pattern_options.h"
#include "loza/base/error.h"
#include "loza/base/json.h"
#include "loza/calibrate/convert.h"
#include "loza/calibrate/gates_file.h"
#include "loza/calibrate/select.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/model/config.h"
#include "loza/model/plan.h"

namespace loza::cli {
namespace {

struct ConvertOptions {
  std::filesystem::path model, out, gates;
  double sparsity = 0.5;
  BlockPattern pattern;
  std::string rope;  // "yarn" or none
  std::string rope_of = "all", sink;
  double factor = 1;
  std::optional<double> theta;
  bool json = false;
};

RopeChange rope_change(const ConvertOptions& options) {
  RopeChange change;
  change.theta = options.theta;
  if (options.rope == "yarn") change.factor = options.factor;
  if (options.rope_of == "full") change.of = RopeChange::Of::kFull;
  if (!options.sink.empty()) change.sink_is_capped = options.sink == "capped";
  return change;
}

void convert(const ConvertOptions& options) {
  const std::string place = (options.model / "config.json").string();
  const Checkpoint checkpoint(options.model);
  const std::int64_t num_modules = read_model_config(checkpoint.config(), place).num_modules();
  Conversion conversion;
  conversion.rope = rope_change(options);
  if (conversion.rope.of == RopeChange::Of::kFull && !conversion.rope.theta &&
      !conversion.rope.factor) {
    throw_usage("--rope-of full", "--rope or --rope-theta beside it", "neither of them");
  }
  std::int64_t num_tied_at_cut = 0;
  if (!options.gates.empty()) {
    const GatesFile gates = read_gates(options.gates, num_modules);
    const Selection selection = select_lowest(gates.alpha, options.sparsity);
    num_tied_at_cut = selection.num_tied_at_cut;
    conversion.plan =
        AttentionPlan::from_choice(selection.streaming, options.pattern, options.gates.string());
  } else if (conversion.rope.is_none()) {
    throw_usage("loza convert", "--gates, --rope, --rope-theta or --sink", "none of them");
  }
  convert_model(options.model, options.out, conversion);

  const Checkpoint converted(options.out);
  const ModelConfig model = read_model_config(converted.config(), options.out.string());
  const AttentionPlan plan = read_plan(converted.config(), num_modules, options.out.string());
  const Json result = {{"model", options.out.string()},
                       {"layer_type", plan.layer_type()},
                       {"num_modules", plan.num_modules()},
                       {"num_streaming", plan.num_streaming()},
                       {"num_tied_at_cut", num_tied_at_cut},
                       {"rope_theta", model.rope.theta},
                       {"rope_factor", model.rope.factor},
                       {"max_position", model.max_position},
                       {"rope_by_kind", model.has_rope_by_kind},
                       {"sink_distance", model.sink_is_capped ? "capped" : "absolute"}};
  if (options.json) {
    fmt::print("{}\n", result.dump());
    return;
  }
  fmt::print("{}: {} of {} modules streaming, {}\n", options.out.string(), plan.num_streaming(),
             plan.num_modules(), plan.layer_type());
  if (num_tied_at_cut > 0) {
    fmt::print("{} modules tie at the cut: their index decided\n", num_tied_at_cut);
  }
  if (!conversion.rope.is_none()) {
    fmt::print("RoPE: theta {:g}, factor {:g}, up to {} tokens\n", model.rope.theta,
               model.rope.factor, model.max_position);
    if (model.has_rope_by_kind) {
      fmt::print("streaming modules: theta {:g}, factor {:g}\n", model.streaming_rope.theta,
                 model.streaming_rope.factor);
    }
    if (model.sink_is_capped) fmt::print("the sink stands directly before the window\n");
  }
}

}  // namespace

void add_convert(CLI::App& app) {
  auto options = std::make_shared<ConvertOptions>();
  CLI::App* command = app.add_subcommand(
      "convert",
      "Write a model with its lowest modules streaming, or for a longer context. Only config.json "
      "changes; the weights are the same bytes (hard links where the file system allows)");
  command->add_option("model", options->model, "Model folder")->required();
  command->add_option("out", options->out, "Folder to write")->required();
  command->add_option("--gates", options->gates, "JSON file: {\"alpha\": [one number a module]}");
  command->add_option("--sparsity", options->sparsity, "Share of the modules that stream")
      ->capture_default_str();
  add_pattern_options(*command, options->pattern);
  auto* rope = command->add_option("--rope", options->rope, "yarn: stretch the context by --factor")
                   ->check(CLI::IsMember({"yarn"}));
  auto* factor = command->add_option("--factor", options->factor,
                                     "Of the original context; 1 takes a scaling away");
  rope->needs(factor);
  factor->needs(rope);
  command->add_option("--rope-theta", options->theta, "Another base of the rotary frequencies");
  command
      ->add_option("--rope-of", options->rope_of,
                   "Modules that --rope and --rope-theta change: all, or full ones alone")
      ->check(CLI::IsMember({"all", "full"}))
      ->capture_default_str();
  command
      ->add_option("--sink", options->sink,
                   "How far streaming modules see the sink: absolute, where it is, or capped, "
                   "directly before the window")
      ->check(CLI::IsMember({"absolute", "capped"}));
  command->add_flag("--json", options->json, "Print {\"model\", \"layer_type\", ...}");
  command->footer(
      "Example: loza convert SmolLM2 SmolLM2-zigzag --gates gates.json --sparsity 0.5\n"
      "         loza convert SmolLM2-zigzag SmolLM2-32k --rope yarn --factor 4\n"
      "         loza convert SmolLM2-zigzag SmolLM2-1m --rope yarn --factor 128 --rope-of full "
      "--sink capped");
  command->callback([options] { convert(*options); });
}

}  // namespace loza::cli
