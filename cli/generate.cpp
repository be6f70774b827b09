#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/commands.h"
#include "cli/model_options.h"
#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/base/json.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/engine/engine.h"
#include "loza/model/plan.h"
#include "loza/model/transformer.h"
#include "loza/tokenizer/tokenizer.h"

namespace loza::cli {
namespace {

struct GenerateOptions {
  std::filesystem::path model, prompt_file;
  std::string prompt;
  ModelOptions placement;
  bool chat = false, control_tokens = false, ignore_eos = false, json = false;
  std::int64_t max_new = 256, chunk_len = 0, budget_bytes = 0;
  SamplingOptions sampling;
  std::vector<std::string> stops;
};

// One user turn in ChatML. Only the frame has control tokens: what the user wrote is text.
std::vector<std::int64_t> chat_prompt(const Tokenizer& tokenizer, const std::string& text,
                                      const std::string& place) {
  const std::int64_t begin = tokenizer.token_to_id("<|im_start|>");
  const std::int64_t end = tokenizer.token_to_id("<|im_end|>");
  if (begin < 0 || end < 0) {
    throw_bad_input(place + ": tokenizer", "the tokens <|im_start|> and <|im_end|> for --chat",
                    "a vocabulary without them", "leave --chat out and write the prompt whole");
  }
  std::vector<std::int64_t> ids = {begin};
  const auto append = [&](const std::vector<std::int64_t>& more) {
    ids.insert(ids.end(), more.begin(), more.end());
  };
  append(tokenizer.encode("user\n" + text));
  ids.push_back(end);
  append(tokenizer.encode("\n"));
  ids.push_back(begin);
  append(tokenizer.encode("assistant\n"));
  return ids;
}

std::vector<std::int64_t> prompt_ids(const GenerateOptions& options, const Tokenizer& tokenizer) {
  const std::string text =
      options.prompt_file.empty() ? options.prompt : read_file(options.prompt_file);
  if (options.chat) return chat_prompt(tokenizer, text, options.model.string());
  return tokenizer.encode(
      text, options.control_tokens ? Tokenizer::Special::kAsControl : Tokenizer::Special::kAsText);
}

// eos_token_id of a config: one id or several.
void append_eos_ids(const Json& config, std::vector<std::int64_t>& ids) {
  if (!config.is_object() || !config.contains("eos_token_id")) return;
  const Json& eos = config["eos_token_id"];
  for (const Json& id : eos.is_array() ? eos : Json::array({eos})) {
    if (id.is_number_integer()) ids.push_back(id.get<std::int64_t>());
  }
}

std::vector<std::int64_t> stop_ids(const GenerateOptions& options, const Checkpoint& checkpoint,
                                   const Tokenizer& tokenizer) {
  std::vector<std::int64_t> ids;
  if (options.ignore_eos) return ids;
  append_eos_ids(checkpoint.generation_config(), ids);
  append_eos_ids(checkpoint.config(), ids);
  ids.push_back(tokenizer.eos_id());
  if (options.chat) ids.push_back(tokenizer.token_to_id("<|im_end|>"));
  return ids;
}

double per_second(std::int64_t num_tokens, double ms) {
  return ms > 0 ? 1000.0 * static_cast<double>(num_tokens) / ms : 0;
}

void print_json(const Completion& completion, const Transformer& model, const AttentionPlan& plan) {
  const auto num_new = static_cast<std::int64_t>(completion.ids.size());
  const Json result = {
      {"text", completion.text},
      {"ids", completion.ids},
      {"finish_reason", finish_reason_name(completion.reason)},
      {"prompt_tokens", completion.prompt_len},
      {"new_tokens", num_new},
      {"dtype", dtype_name(attention::dtype_of(model.dtype()))},
      {"layer_type", plan.layer_type()},
      {"prefill_ms", completion.prefill_ms},
      {"decode_ms", completion.decode_ms},
      {"prefill_tokens_per_s", per_second(completion.prompt_len, completion.prefill_ms)},
      {"decode_tokens_per_s", per_second(num_new - 1, completion.decode_ms)},
      {"kv_bytes",
       {{"full", completion.kv.full},
        {"streaming", completion.kv.streaming},
        {"total", completion.kv.total()}}}};
  fmt::print("{}\n", result.dump());
}

void print_summary(const Completion& completion, const AttentionPlan& plan) {
  const auto num_new = static_cast<std::int64_t>(completion.ids.size());
  fmt::print(stderr, "\nprefill  {} tokens, {:.0f} ms, {:.1f} tokens/s\n", completion.prompt_len,
             completion.prefill_ms, per_second(completion.prompt_len, completion.prefill_ms));
  fmt::print(stderr, "decode   {} tokens, {:.0f} ms, {:.1f} tokens/s, ended by {}\n", num_new,
             completion.decode_ms, per_second(num_new - 1, completion.decode_ms),
             finish_reason_name(completion.reason));
  fmt::print(stderr, "KV       {} bytes in {} full modules, {} bytes in {} streaming ones\n",
             completion.kv.full, plan.num_modules() - plan.num_streaming(), completion.kv.streaming,
             plan.num_streaming());
}

Completion complete(const GenerateOptions& options, const Checkpoint& checkpoint,
                    const Transformer& model, const AttentionPlan& plan,
                    const Tokenizer& tokenizer) {
  Request request;
  request.prompt = prompt_ids(options, tokenizer);
  request.max_new = options.max_new;
  request.sampling = options.sampling;
  request.stop_ids = stop_ids(options, checkpoint, tokenizer);
  request.stops = options.stops;
  if (!options.json) {
    request.on_text = [](std::string_view piece) {
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    };
  }
  const std::int64_t length = static_cast<std::int64_t>(request.prompt.size()) + options.max_new;
  if (length > model.config().max_position) {
    spdlog::warn("{} tokens are more than the {} that the model was trained for", length,
                 model.config().max_position);
  }
  Engine engine(model, plan, &tokenizer,
                {.max_sequences = 1,
                 .num_tokens = length,
                 .chunk_len = options.chunk_len,
                 .budget_bytes = options.budget_bytes});
  return engine.generate(std::move(request));
}

void generate(const GenerateOptions& options) {
  check_sampling(options.sampling, "options");
  const Checkpoint checkpoint(options.model);
  const Tokenizer tokenizer = Tokenizer::from_folder(options.model);
  const Transformer model = load_model(checkpoint, options.placement);
  const AttentionPlan plan = read_plan(checkpoint.config(), model.config().num_modules(),
                                       (options.model / "config.json").string());
  const Completion completion = complete(options, checkpoint, model, plan, tokenizer);
  if (options.json) {
    print_json(completion, model, plan);
  } else {
    fmt::print("\n");
    std::fflush(stdout);
    print_summary(completion, plan);
  }
  if (completion.reason == FinishReason::kBroken) {
    throw Error(ExitCode::kFailed,
                {options.model.string(), "finite logits",
                 fmt::format("NaN or infinity after {} new tokens", completion.ids.size()),
                 "try --dtype fp32"});
  }
}

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand(
      "generate",
      "Continue a prompt. The text goes to stdout as it comes; speed and KV memory, of full and "
      "of streaming modules, to stderr. Modules stream as config.json says");
  command->add_option("model", options->model, "Model folder")->required();
  auto* prompt = command->add_option_group("prompt");
  prompt->add_option("-p,--prompt", options->prompt, "The prompt");
  prompt->add_option("--prompt-file", options->prompt_file, "File with the prompt");
  prompt->require_option(1);
  command->add_flag("--chat", options->chat,
                    "Make the prompt a user's turn in ChatML, for models with <|im_start|>");
  command->add_flag("--control-tokens", options->control_tokens,
                    "Read the spelling of special tokens in the prompt as the tokens");
  command->add_option("--max-new", options->max_new, "Tokens to generate, at most")
      ->check(CLI::Range(std::int64_t{1}, KvCache::kMaxTokens / 2))
      ->capture_default_str();
  command
      ->add_option("--temperature", options->sampling.temperature,
                   "0: always the most likely token")
      ->capture_default_str();
  command->add_option("--top-k", options->sampling.top_k, "Only the k most likely tokens; 0: all")
      ->capture_default_str();
  command
      ->add_option("--top-p", options->sampling.top_p,
                   "Only the most likely tokens that have this share together")
      ->capture_default_str();
  command
      ->add_option("--min-p", options->sampling.min_p,
                   "Only tokens at least this many times as likely as the most likely one")
      ->capture_default_str();
  command->add_option("--seed", options->sampling.seed, "Of the draws")->capture_default_str();
  command->add_option("--stop", options->stops, "End before this text; may be given again")
      ->allow_extra_args(false);
  command->add_flag("--ignore-eos", options->ignore_eos, "Go on after the end-of-text token");
  add_model_options(*command, options->placement);
  add_weights_option(*command, options->placement);
  command
      ->add_option("--chunk", options->chunk_len,
                   "Tokens of the prompt computed at a time (default: 512, on a GPU 4096)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20));
  command
      ->add_option("--kv-budget", options->budget_bytes,
                   "Most memory for keys and values, as in 512MB; default: what is available")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false));
  command->add_flag("--json", options->json,
                    "Print one JSON object in the end: text, ids, counts, times, KV bytes");
  command->footer(
      "Example: loza generate SmolLM2-135M-Instruct --chat -p 'What is a zigzag?' "
      "--max-new 64");
  command->callback([options] { generate(*options); });
}

}  // namespace loza::cli
