#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <numbers>
#include <optional>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "loza/base/json.h"
#include "loza/base/table.h"
#include "loza/calibrate/gates_file.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/engine/kv_cache.h"
#include "loza/model/plan.h"
#include "loza/model/rope.h"
#include "loza/model/transformer.h"

namespace loza::cli {
namespace {

struct InspectOptions {
  std::filesystem::path model, gates;
  std::string dtype = "auto";
  bool json = false;
};

// What is known about a model without loading its weights.
struct ModelFacts {
  ModelConfig config;
  AttentionPlan plan;
  std::vector<double> alpha;  // [modules]; empty without gates
  std::int64_t num_parameters = 0;
  std::uint64_t weight_bytes = 0;
  double longest_wavelength = 0, shortest_wavelength = 0, attention_factor = 1;
  KvRow kv_row;
};

constexpr std::int64_t kLengths[] = {1 << 10, 1 << 13, 1 << 15, 1 << 17, 1 << 20};

ModelFacts find_facts(const InspectOptions& options) {
  const Checkpoint checkpoint(options.model);
  const std::string place = (options.model / "config.json").string();
  ModelFacts facts;
  facts.config = read_model_config(checkpoint.config(), place);
  facts.plan = read_plan(checkpoint.config(), facts.config.num_modules(), place);
  facts.weight_bytes = checkpoint.tensor_bytes();
  for (const ParameterShape& parameter : parameter_shapes(facts.config)) {
    std::int64_t size = 1;
    for (const std::int64_t extent : parameter.shape) size *= extent;
    facts.num_parameters += size;
  }
  if (!options.gates.empty()) {
    facts.alpha = read_gates(options.gates, facts.config.num_modules()).alpha;
  }
  const Rope rope(facts.config.rope, at::kCPU);
  facts.attention_factor = rope.attention_factor();
  facts.shortest_wavelength = 2 * std::numbers::pi / rope.inv_freq().max().item<double>();
  facts.longest_wavelength = 2 * std::numbers::pi / rope.inv_freq().min().item<double>();
  facts.kv_row = kv_row_of(
      facts.config, parse_dtype(options.dtype) == at::kBFloat16 ? DType::kBF16 : DType::kF32);
  return facts;
}

std::string scaling_name(RopeConfig::Scaling scaling) {
  switch (scaling) {
    case RopeConfig::Scaling::kNone:
      return "none";
    case RopeConfig::Scaling::kLinear:
      return "linear";
    case RopeConfig::Scaling::kLlama3:
      return "llama3";
    case RopeConfig::Scaling::kYarn:
      return "yarn";
  }
  return "?";
}

std::string pattern_name(const BlockPattern& pattern) {
  if (pattern.is_full()) return "full";
  return fmt::format("streaming {} + {} blocks of {}", pattern.sink_blocks, pattern.recent_blocks,
                     pattern.block_size);
}

// A gate as a bar of 20 characters; gates beyond [0, 1] fill or empty it.
std::string bar(double alpha) {
  constexpr int kWidth = 20;
  const int filled = static_cast<int>(std::lround(std::clamp(alpha, 0.0, 1.0) * kWidth));
  return std::string(static_cast<std::size_t>(filled), '#') +
         std::string(static_cast<std::size_t>(kWidth - filled), '.');
}

std::string megabytes(std::int64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

std::int64_t dense_kv_bytes(const ModelFacts& facts, std::int64_t length) {
  const AttentionPlan dense = AttentionPlan::dense(facts.config.num_modules());
  return kv_bytes_at(facts.kv_row, dense.patterns, length).total();
}

Json modules_json(const ModelFacts& facts) {
  Json modules = Json::array();
  for (std::size_t i = 0; i < facts.plan.patterns.size(); ++i) {
    const BlockPattern& pattern = facts.plan.patterns[i];
    Json module = {{"module", i},
                   {"layer", static_cast<std::int64_t>(i) / facts.config.modules_per_layer},
                   {"pattern", pattern.is_full() ? "full" : "streaming"}};
    if (!pattern.is_full()) {
      module["block_size"] = pattern.block_size;
      module["sink_blocks"] = pattern.sink_blocks;
      module["recent_blocks"] = pattern.recent_blocks;
    }
    if (!facts.alpha.empty()) module["alpha"] = facts.alpha[i];
    modules.push_back(std::move(module));
  }
  return modules;
}

Json to_json(const ModelFacts& facts) {
  Json lengths = Json::array();
  for (const std::int64_t length : kLengths) {
    const KvBytes bytes = kv_bytes_at(facts.kv_row, facts.plan.patterns, length);
    lengths.push_back({{"length", length},
                       {"dense_bytes", dense_kv_bytes(facts, length)},
                       {"full_bytes", bytes.full},
                       {"streaming_bytes", bytes.streaming},
                       {"total_bytes", bytes.total()}});
  }
  const ModelConfig& config = facts.config;
  return {{"family", config.family},
          {"num_parameters", facts.num_parameters},
          {"weight_bytes", facts.weight_bytes},
          {"num_layers", config.num_layers},
          {"num_modules", config.num_modules()},
          {"num_streaming", facts.plan.num_streaming()},
          {"layer_type", facts.plan.layer_type()},
          {"max_position", config.max_position},
          {"modules", modules_json(facts)},
          {"rope",
           {{"theta", config.rope.theta},
            {"size", config.rope.size},
            {"scaling", scaling_name(config.rope.scaling)},
            {"factor", config.rope.factor},
            {"attention_factor", facts.attention_factor},
            {"shortest_wavelength", facts.shortest_wavelength},
            {"longest_wavelength", facts.longest_wavelength}}},
          {"softmax_scale", config.softmax_scale},
          {"streaming_rope",
           {{"theta", config.streaming_rope.theta},
            {"scaling", scaling_name(config.streaming_rope.scaling)},
            {"factor", config.streaming_rope.factor},
            {"softmax_scale", config.streaming_softmax_scale},
            {"sink_distance", config.sink_is_capped ? "capped" : "absolute"}}},
          {"kv",
           {{"dtype", dtype_name(facts.kv_row.dtype)},
            {"bytes_per_token_and_module", facts.kv_row.size_bytes()},
            {"bytes_per_token", facts.kv_row.size_bytes() * config.num_modules()},
            {"by_length", std::move(lengths)}}}};
}

void print_heading(const ModelFacts& facts) {
  const ModelConfig& config = facts.config;
  const bool latent = config.attention == ModelConfig::Attention::kMla;
  fmt::print("{}: {} layers, {} attention modules, {:.1f} M parameters ({})\n", config.family,
             config.num_layers, config.num_modules(),
             static_cast<double>(facts.num_parameters) / 1e6,
             megabytes(static_cast<std::int64_t>(facts.weight_bytes)));
  fmt::print("hidden {}, {} heads of {}, {}, vocabulary {}, trained to {} tokens\n",
             config.hidden_size, config.num_heads, config.qk_size(),
             latent ? fmt::format("latent {} + {}", config.kv_lora_rank, config.rope_size)
                    : fmt::format("{} key heads", config.num_key_heads),
             config.vocab_size, config.max_position);
  fmt::print(
      "RoPE: theta {}, scaling {} x {}, wavelengths {:.1f} .. {:.0f} tokens, "
      "attention factor {:.4g}, softmax scale {:.4g}\n",
      config.rope.theta, scaling_name(config.rope.scaling), config.rope.factor,
      facts.shortest_wavelength, facts.longest_wavelength, facts.attention_factor,
      config.softmax_scale);
  if (config.has_rope_by_kind || config.sink_is_capped) {
    fmt::print("streaming modules: theta {}, scaling {} x {}, the sink {}\n",
               config.streaming_rope.theta, scaling_name(config.streaming_rope.scaling),
               config.streaming_rope.factor,
               config.sink_is_capped ? "directly before the window" : "where it is");
  }
  fmt::print("\n");
}

void print_modules(const ModelFacts& facts) {
  std::vector<std::string> header = {"module", "layer", "pattern"};
  if (!facts.alpha.empty()) header.insert(header.end(), {"alpha", "gate"});
  Table table(header);
  for (std::size_t i = 0; i < facts.plan.patterns.size(); ++i) {
    std::vector<std::string> row = {
        fmt::format("{}", i),
        fmt::format("{}", static_cast<std::int64_t>(i) / facts.config.modules_per_layer),
        pattern_name(facts.plan.patterns[i])};
    if (!facts.alpha.empty()) {
      row.push_back(fmt::format("{:.3f}", facts.alpha[i]));
      row.push_back(bar(facts.alpha[i]));
    }
    table.add_row(std::move(row));
  }
  fmt::print("{}\n", table.to_string());
}

void print_kv(const ModelFacts& facts) {
  const std::int64_t row_bytes = facts.kv_row.size_bytes();
  fmt::print("KV cache in {}: {} bytes a token and module, {} a token\n\n",
             dtype_name(facts.kv_row.dtype), row_bytes, row_bytes * facts.config.num_modules());
  Table table({"tokens", "dense", "this plan", "full modules", "streaming modules"});
  for (const std::int64_t length : kLengths) {
    const KvBytes bytes = kv_bytes_at(facts.kv_row, facts.plan.patterns, length);
    table.add_row({fmt::format("{}", length), megabytes(dense_kv_bytes(facts, length)),
                   megabytes(bytes.total()), megabytes(bytes.full), megabytes(bytes.streaming)});
  }
  fmt::print("{}", table.to_string());
}

void inspect(const InspectOptions& options) {
  const ModelFacts facts = find_facts(options);
  if (options.json) {
    fmt::print("{}\n", to_json(facts).dump());
    return;
  }
  print_heading(facts);
  print_modules(facts);
  print_kv(facts);
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command = app.add_subcommand(
      "inspect", "A model's attention modules and their patterns, its RoPE, and its KV memory");
  command->add_option("model", options->model, "Model folder")->required();
  command->add_option("--gates", options->gates, "Gates file to show as bars");
  command->add_option("--dtype", options->dtype, "Of the KV cache: fp32, bf16, or auto")
      ->capture_default_str();
  command->add_flag("--json", options->json, "Print everything as one JSON object");
  command->footer("Example: loza inspect SmolLM2 --gates gates/smollm2-135m-instruct.json");
  command->callback([options] { inspect(*options); });
}

}  // namespace loza::cli
