#include <fmt/format.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/model_options.h"
#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/base/json.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/checkpoint/tensor.h"
#include "loza/engine/device_memory.h"
#include "loza/engine/kv_cache.h"
#include "loza/engine/step_runner.h"
#include "loza/model/plan.h"
#include "loza/model/transformer.h"

namespace loza::cli {
namespace {

struct LogitsOptions {
  std::filesystem::path model, ids, out;
  ModelOptions placement;
  std::int64_t num_decoded = 0;
  std::int64_t first_position = 0;
  std::string kl_to;  // weights of the model to compare with; empty: none
  std::int64_t kl_window = 2048;
};

std::vector<std::int64_t> read_ids(const std::filesystem::path& path, std::int64_t vocab_size) {
  const Json json = parse_json(read_file(path), path.string());
  const std::string expected =
      fmt::format("an array of token ids, each from 0 to {}", vocab_size - 1);
  if (!json.is_array() || json.empty())
    throw_bad_input(path.string(), expected, describe_json(json));
  std::vector<std::int64_t> ids;
  for (const Json& value : json) {
    const bool valid = value.is_number_integer() && value >= 0 && value < vocab_size;
    if (!valid) {
      throw_bad_input(fmt::format("{}: element {}", path.string(), ids.size()), expected,
                      describe_json(value));
    }
    ids.push_back(value.get<std::int64_t>());
  }
  return ids;
}

at::Tensor whole_logits(const Transformer& model, const AttentionPlan& plan,
                        const std::vector<std::int64_t>& ids, std::int64_t first_position) {
  PlannedCore core(plan);
  ForwardBatch batch = ForwardBatch::whole(ids, core).on(model.device());
  batch.places = batch.positions;
  batch.positions = batch.places + first_position;
  return model.logits(model.forward(batch));
}

DType kv_dtype(at::ScalarType dtype) { return dtype == at::kBFloat16 ? DType::kBF16 : DType::kF32; }

// All but the last num_decoded positions in one prefill, then those one by one, everything
// through the caches.
at::Tensor cached_logits(const Transformer& model, const AttentionPlan& plan,
                         const std::vector<std::int64_t>& ids, std::int64_t num_decoded,
                         std::int64_t first_position) {
  const auto num_tokens = static_cast<std::int64_t>(ids.size());
  KvCache cache(
      kv_row_of(model.config(), kv_dtype(model.dtype())), plan.patterns,
      {.max_sequences = 1, .num_tokens = num_tokens, .allocate = kv_allocator(model.device())});
  const KvSequence sequence = cache.open(num_tokens);
  StepRunner steps(model, plan, cache);
  std::vector<at::Tensor> logits;
  const auto run = [&](std::int64_t begin, std::int64_t end) {
    cache.append(sequence, end - begin);
    StepTokens tokens;
    std::vector<std::int64_t> rows;
    for (std::int64_t place = begin; place < end; ++place) {
      tokens.ids.push_back(ids[static_cast<std::size_t>(place)]);
      tokens.places.push_back(place);
      tokens.positions.push_back(place + first_position);
      rows.push_back(place - begin);
    }
    tokens.offsets.push_back(end - begin);
    tokens.sequences = {sequence};
    logits.push_back(steps.logits(tokens, rows));
  };
  const std::int64_t prefilled = num_tokens - num_decoded;
  if (prefilled > 0) run(0, prefilled);
  for (std::int64_t pos = prefilled; pos < num_tokens; ++pos) run(pos, pos + 1);
  return at::cat(logits);
}

// How far two models' next-token distributions are apart, position by position.
struct Divergence {
  std::vector<double> kl;         // sum of p (log p - log q), nats; p of the model compared with
  std::int64_t num_agreeing = 0;  // positions with the same likeliest token
};

// The sequence in windows, each a sequence of its own.
Divergence divergence(const Transformer& exact, const Transformer& model, const AttentionPlan& plan,
                      const std::vector<std::int64_t>& ids, std::int64_t window_len) {
  Divergence result;
  const auto num_tokens = static_cast<std::int64_t>(ids.size());
  for (std::int64_t begin = 0; begin < num_tokens; begin += window_len) {
    const std::int64_t end = std::min(num_tokens, begin + window_len);
    const std::vector<std::int64_t> window(ids.begin() + begin, ids.begin() + end);
    const auto hidden_of = [&](const Transformer& of) {
      PlannedCore core(plan);
      return of.forward(ForwardBatch::whole(window, core).on(of.device()));
    };
    const at::Tensor exact_hidden = hidden_of(exact), hidden = hidden_of(model);
    constexpr std::int64_t kSlice = 256;  // positions: logits are as wide as the vocabulary
    for (std::int64_t row = 0; row < end - begin; row += kSlice) {
      const std::int64_t last = std::min(end - begin, row + kSlice);
      const at::Tensor p = exact.logits(exact_hidden.slice(0, row, last)).log_softmax(-1);
      const at::Tensor q = model.logits(hidden.slice(0, row, last)).log_softmax(-1);
      const at::Tensor kl = (p.exp() * (p - q)).sum(-1).to(at::kDouble).cpu().contiguous();
      result.kl.insert(result.kl.end(), kl.const_data_ptr<double>(),
                       kl.const_data_ptr<double>() + kl.numel());
      result.num_agreeing += (p.argmax(-1) == q.argmax(-1)).sum().item<std::int64_t>();
    }
  }
  return result;
}

void print_divergence(const LogitsOptions& options, const Checkpoint& checkpoint,
                      const Transformer& model, const AttentionPlan& plan,
                      const std::vector<std::int64_t>& ids) {
  ModelOptions exact_options = options.placement;
  exact_options.weights = options.kl_to;
  exact_options.dtype = "auto";
  const Transformer exact = load_model(checkpoint, exact_options);
  Divergence found = divergence(exact, model, plan, ids, options.kl_window);
  std::sort(found.kl.begin(), found.kl.end());
  const auto num_tokens = static_cast<double>(found.kl.size());
  double total = 0;
  for (const double kl : found.kl) total += kl;
  const Json out = {{"tokens", found.kl.size()},
                    {"kl_mean", total / num_tokens},
                    {"kl_median", found.kl[found.kl.size() / 2]},
                    {"kl_p99", found.kl[found.kl.size() * 99 / 100]},
                    {"same_top_token", static_cast<double>(found.num_agreeing) / num_tokens}};
  fmt::print("{}\n", out.dump());
}

void run_logits(const LogitsOptions& options) {
  const at::NoGradGuard no_grad;
  const Checkpoint checkpoint(options.model);
  const Transformer model = load_model(checkpoint, options.placement);
  const AttentionPlan plan = read_plan(checkpoint.config(), model.config().num_modules(),
                                       (options.model / "config.json").string());
  const std::vector<std::int64_t> ids = read_ids(options.ids, model.config().vocab_size);
  if (!options.kl_to.empty()) return print_divergence(options, checkpoint, model, plan, ids);
  if (options.out.empty()) throw_usage("--out", "a file, or --kl-to", "neither");
  const std::int64_t num_decoded =
      std::min(options.num_decoded, static_cast<std::int64_t>(ids.size()));
  const at::Tensor logits =
      num_decoded > 0 ? cached_logits(model, plan, ids, num_decoded, options.first_position)
                      : whole_logits(model, plan, ids, options.first_position);
  write_safetensors(options.out, {entry_of("logits", logits.to(at::kCPU))});
}

}  // namespace

void add_logits(CLI::App& app) {
  auto options = std::make_shared<LogitsOptions>();
  CLI::App* command = app.add_subcommand(
      "logits", "The logits of every position of a sequence, as one tensor [T, vocab] fp32");
  command->add_option("model", options->model, "Model folder")->required();
  command->add_option("--ids", options->ids, "JSON file: an array of token ids")->required();
  command->add_option("--out", options->out, "safetensors file to write");
  add_model_options(*command, options->placement);
  add_weights_option(*command, options->placement);
  command
      ->add_option("--decode", options->num_decoded,
                   "Compute the last N positions token by token through the KV caches")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--first-position", options->first_position,
                   "Position of the first token, which its rotary embedding turns by")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 31));
  command->add_option(
      "--kl-to", options->kl_to,
      "Instead of writing logits, say how far they are from those of the same model "
      "with these weights: fp32, bf16 or int8");
  command
      ->add_option("--kl-window", options->kl_window,
                   "The sequence is cut to windows of so many tokens for --kl-to")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 24))
      ->capture_default_str();
  command->footer(
      "Example: echo '[1, 2, 3]' > ids.json\n"
      "         loza logits MODEL --ids ids.json --out logits.safetensors --dtype fp32\n"
      "         loza logits MODEL --ids ids.json --weights int8 --kl-to fp32");
  command->callback([options] { run_logits(*options); });
}

}  // namespace loza::cli
