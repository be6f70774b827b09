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
#include "loza/model/plan.h"
#include "loza/model/transformer.h"

namespace loza::cli {
namespace {

struct LogitsOptions {
  std::filesystem::path model, ids, out;
  ModelOptions placement;
  std::int64_t num_decoded = 0;
  std::int64_t first_position = 0;
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
  const at::Tensor all_ids = torch::tensor(ids, at::kLong).to(model.device());
  KvCache cache(
      kv_row_of(model.config(), kv_dtype(model.dtype())), plan.patterns,
      {.max_sequences = 1, .num_tokens = num_tokens, .allocate = kv_allocator(model.device())});
  const KvSequence sequence = cache.open(num_tokens);
  std::vector<at::Tensor> logits;
  const auto run = [&](std::int64_t begin, std::int64_t end) {
    cache.append(sequence, end - begin);
    ForwardBatch batch;
    batch.ids = all_ids.slice(0, begin, end);
    batch.places = at::arange(begin, end, all_ids.options());
    batch.positions = batch.places + first_position;
    batch.offsets = {0, end - begin};
    batch.plan = &plan;
    batch.kv = &cache.views({sequence});
    logits.push_back(model.logits(model.forward(batch)));
  };
  const std::int64_t prefilled = num_tokens - num_decoded;
  if (prefilled > 0) run(0, prefilled);
  for (std::int64_t pos = prefilled; pos < num_tokens; ++pos) run(pos, pos + 1);
  return at::cat(logits);
}

void run_logits(const LogitsOptions& options) {
  const at::NoGradGuard no_grad;
  const Checkpoint checkpoint(options.model);
  const Transformer model = load_model(checkpoint, options.placement);
  const AttentionPlan plan = read_plan(checkpoint.config(), model.config().num_modules(),
                                       (options.model / "config.json").string());
  const std::vector<std::int64_t> ids = read_ids(options.ids, model.config().vocab_size);
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
  command->add_option("--out", options->out, "safetensors file to write")->required();
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
  command->footer(
      "Example: echo '[1, 2, 3]' > ids.json\n"
      "         loza logits MODEL --ids ids.json --out logits.safetensors --dtype fp32");
  command->callback([options] { run_logits(*options); });
}

}  // namespace loza::cli
