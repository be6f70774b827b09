#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/demo_run.h"
#include "loza/base/file.h"
#include "loza/evaluate/report_html.h"

namespace loza::cli {
namespace {

struct DemoCommand {
  DemoOptions demo;
  bool fast = false, full = false, json = false;
};

void demo(DemoCommand options) {
  if (options.fast) options.demo.scale = DemoScale::fast();
  if (options.full) options.demo.scale = DemoScale::full();
  const DemoReport report = run_demo(options.demo);
  const auto html = options.demo.out / "report.html", json = options.demo.out / "report.json";
  write_file_atomic(html, report_html(report));
  write_file_atomic(json, demo_json(report).dump(1) + "\n");
  if (options.json) {
    fmt::print("{}\n", demo_json(report).dump());
  } else {
    fmt::print("{}", demo_text(report));
  }
  spdlog::info("{:.0f} s; the report is {}, its numbers are {}", report.seconds, html.string(),
               json.string());
}

}  // namespace

void add_demo(CLI::App& app) {
  auto options = std::make_shared<DemoCommand>();
  CLI::App* command = app.add_subcommand(
      "demo",
      "The whole path on a real model: calibrate it, make half of its attention modules streaming "
      "without any training, compare with choices made without looking, answer a question about "
      "a long text, time both, and write a report");
  auto* source = command->add_option_group("source");
  source->add_option("--gguf", options->demo.gguf, "GGUF file of a full-attention model")
      ->check(CLI::ExistingFile);
  source->add_option("--model", options->demo.model, "Model folder")->check(CLI::ExistingDirectory);
  source->require_option(1);
  command->add_option("--out", options->demo.out, "Folder of the report, the gates and the models")
      ->capture_default_str();
  command->add_option("--prose", options->demo.prose, "Text for the documents")
      ->capture_default_str();
  command->add_option("--code", options->demo.code, "Text for the documents")
      ->capture_default_str();
  auto* fast = command->add_flag("--fast", options->fast, "Few documents: under two minutes");
  command->add_flag("--full", options->full, "More documents, also of 7,600 tokens: an hour")
      ->excludes(fast);
  add_model_options(*command, options->demo.placement);
  command->add_flag("--json", options->json, "Print the report's JSON");
  command->footer("Example: loza demo --gguf SmolLM2-135M-Instruct.Q4_1.gguf --out demo");
  command->callback([options] { demo(*options); });
}

}  // namespace loza::cli
