#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/named_plans.h"
#include "loza/base/json.h"
#include "loza/base/progress.h"
#include "loza/base/table.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/engine/engine.h"
#include "loza/engine/speed.h"
#include "loza/evaluate/cases.h"
#include "loza/model/transformer.h"

namespace loza::cli {
namespace {

struct BenchOptions {
  std::vector<std::filesystem::path> models;
  std::vector<std::string> lengths = {"512", "2k", "4k", "8k"};
  std::vector<std::string> plans = {"config", "dense"};
  std::vector<std::filesystem::path> gates;
  PlanOptions plan;
  ModelOptions placement;
  SpeedOptions speed;
  bool json = false;
};

struct Row {
  std::string model, plan, dtype, layer_type;
  std::int64_t num_parameters = 0;
  Speed speed;
};

// The plans to time. A second dense one ("config" of a model that nobody converted) would
// repeat the first.
std::vector<NamedPlan> plans_of(const BenchOptions& options, const Checkpoint& checkpoint,
                                const Transformer& model) {
  std::vector<NamedPlan> plans;
  bool has_dense = false;
  for (const std::string& name : options.plans) {
    NamedPlan named = plan_by_name(name, model, checkpoint, options.plan);
    const bool is_dense = named.plan.num_streaming() == 0;
    if (is_dense && has_dense) continue;
    if (is_dense) named.name = "dense";
    has_dense = has_dense || is_dense;
    plans.push_back(std::move(named));
  }
  for (const std::filesystem::path& gates : options.gates) {
    plans.push_back(plan_from_gates(gates, model, options.plan));
  }
  return plans;
}

void bench_model(const std::filesystem::path& folder, const BenchOptions& options,
                 const std::vector<std::int64_t>& lengths, std::vector<Row>& rows) {
  const Checkpoint checkpoint(folder);
  const Transformer model = load_model(checkpoint, options.placement);
  const std::vector<NamedPlan> plans = plans_of(options, checkpoint, model);
  const std::string name = std::filesystem::absolute(folder).lexically_normal().filename().string();
  std::int64_t total = 0;
  for (const std::int64_t length : lengths) total += length;
  Progress progress("timing " + name, total * static_cast<std::int64_t>(plans.size()));
  for (const auto& [plan_name, plan] : plans) {
    for (const std::int64_t length : lengths) {
      rows.push_back({name, plan_name, dtype_name(attention::dtype_of(model.dtype())),
                      plan.layer_type(), model.num_parameters(),
                      measure_speed(model, plan, length, options.speed)});
      progress.advance(length, fmt::format("{} at {}", plan_name, length));
    }
  }
}

double mib(std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

void print_table(const std::vector<Row>& rows) {
  Table table({"model", "plan", "dtype", "length", "prefill tokens/s", "decode tokens/s",
               "KV full MiB", "KV streaming MiB", "KV MiB"});
  for (const Row& row : rows) {
    const KvBytes& kv = row.speed.kv;
    table.add_row({row.model, row.plan, row.dtype, std::to_string(row.speed.length),
                   fmt::format("{:.1f}", row.speed.prefill_per_second),
                   fmt::format("{:.1f}", row.speed.decode_per_second),
                   fmt::format("{:.2f}", mib(kv.full)), fmt::format("{:.2f}", mib(kv.streaming)),
                   fmt::format("{:.2f}", mib(kv.total()))});
  }
  fmt::print("{}", table.to_string());
}

void print_json(const std::vector<Row>& rows) {
  Json result = Json::array();
  for (const Row& row : rows) {
    result.push_back({{"model", row.model},
                      {"plan", row.plan},
                      {"dtype", row.dtype},
                      {"layer_type", row.layer_type},
                      {"parameters", row.num_parameters},
                      {"length", row.speed.length},
                      {"prefill_tokens_per_s", row.speed.prefill_per_second},
                      {"decode_tokens_per_s", row.speed.decode_per_second},
                      {"kv_bytes",
                       {{"full", row.speed.kv.full},
                        {"streaming", row.speed.kv.streaming},
                        {"total", row.speed.kv.total()}}}});
  }
  fmt::print("{}\n", result.dump());
}

void bench(const BenchOptions& options) {
  std::vector<std::int64_t> lengths;
  for (const std::string& text : options.lengths) lengths.push_back(parse_length(text));
  std::vector<Row> rows;
  for (const auto& model : options.models) bench_model(model, options, lengths, rows);
  // What is to be compared stands together: all models and plans at one length.
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Row& a, const Row& b) { return a.speed.length < b.speed.length; });
  options.json ? print_json(rows) : print_table(rows);
}

}  // namespace

void add_bench(CLI::App& app) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command = app.add_subcommand(
      "bench",
      "Prefill and decode tokens/s and KV memory of one sequence by its length, for models and "
      "plans beside each other. Decode is timed after a prompt of that length; the median of the "
      "repeats counts");
  command->add_option("models", options->models, "Model folders")->required();
  command->add_option("--lengths", options->lengths, "Prompt lengths in tokens, as in 512,2k,8k")
      ->delimiter(',')
      ->capture_default_str();
  command
      ->add_option("--plans", options->plans,
                   "config: modules stream as config.json says; dense: none streams; streaming: "
                   "all stream; or a choice without documents, as in loza eval")
      ->delimiter(',')
      ->capture_default_str();
  add_plan_options(*command, options->gates, options->plan);
  add_model_options(*command, options->placement);
  add_weights_option(*command, options->placement);
  command
      ->add_option("--chunk", options->speed.chunk_len,
                   "Tokens of the prompt computed at a time (default: 512, on a GPU 4096)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20));
  command->add_option("--decoded", options->speed.num_decoded, "Tokens of one decode timing")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("--repeats", options->speed.repeats, "Of each timing")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command
      ->add_option("--max-seconds", options->speed.max_seconds,
                   "No further repeat of a timing after so long")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_flag("--json", options->json, "Print a JSON array, one object a row");
  command->footer(
      "Example: loza bench SmolLM2-135M-Instruct smollm2-zigzag --lengths 512,2k,8k\n"
      "         loza bench SmolLM2-135M-Instruct --gates gates.json --sparsity 0.5");
  command->callback([options] { bench(*options); });
}

}  // namespace loza::cli
