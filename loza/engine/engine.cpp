#include "loza/engine/engine.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>

#include "loza/base/check.h"
#include "loza/base/error.h"
#include "loza/engine/device_memory.h"

namespace loza {
namespace {

double ms_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double, std::milli>(end - begin).count();
}

void show(Sequence& sequence, const std::string& piece) {
  if (piece.empty()) return;
  sequence.text += piece;
  if (sequence.request.on_text) sequence.request.on_text(piece);
}

}  // namespace

std::int64_t usual_chunk_len(at::Device device) { return device.is_cpu() ? 512 : 4096; }

Engine::Engine(const Transformer& model, AttentionPlan plan, const Tokenizer* tokenizer,
               const EngineOptions& options)
    : model_(model),
      plan_(std::move(plan)),
      tokenizer_(tokenizer),
      cache_(kv_row_of(model.config(), attention::dtype_of(model.dtype())), plan_.patterns,
             {options.max_sequences, options.num_tokens, options.budget_bytes, options.poison,
              kv_allocator(model.device())}),
      runner_(model_, plan_, cache_),
      scheduler_(cache_,
                 options.chunk_len > 0 ? options.chunk_len : usual_chunk_len(model.device())) {
  LOZA_CHECK(plan_.num_modules() == model.config().num_modules(), plan_.num_modules(),
             model.config().num_modules());
}

Engine::~Engine() = default;

std::int64_t Engine::submit(Request request) {
  check(request);
  scheduler_.submit(std::make_unique<Sequence>(next_id_, std::move(request)));
  return next_id_++;
}

std::vector<Completion> Engine::step() {
  const std::vector<Piece> pieces = scheduler_.schedule();
  if (!pieces.empty()) sample(pieces, run(pieces));
  return settle();
}

at::Tensor Engine::run(const std::vector<Piece>& pieces) {
  StepTokens tokens;
  std::vector<std::int64_t> sampled_rows;
  for (const Piece& piece : pieces) {
    const Sequence& sequence = *piece.sequence;
    for (std::int64_t i = 0; i < piece.num_new; ++i) {
      tokens.positions.push_back(sequence.num_computed + i);
      tokens.ids.push_back(sequence.ids[static_cast<std::size_t>(tokens.positions.back())]);
    }
    tokens.offsets.push_back(static_cast<std::int64_t>(tokens.ids.size()));
    if (piece.ends_pending()) sampled_rows.push_back(tokens.offsets.back() - 1);
    tokens.sequences.push_back(*sequence.kv);
  }
  return runner_.logits(tokens, sampled_rows).to(at::kCPU).contiguous();
}

void Engine::sample(const std::vector<Piece>& pieces, const at::Tensor& logits) {
  const float* row = logits.const_data_ptr<float>();
  for (const Piece& piece : pieces) {
    Sequence& sequence = *piece.sequence;
    const bool wants_token = piece.ends_pending();
    sequence.num_computed += piece.num_new;
    if (!wants_token) continue;
    const auto id = sequence.sampler.sample({row, static_cast<std::size_t>(logits.size(1))});
    row += logits.size(1);
    if (id) {
      accept(sequence, *id);
    } else {
      sequence.finished = FinishReason::kBroken;
    }
  }
}

void Engine::accept(Sequence& sequence, std::int64_t id) {
  sequence.ids.push_back(id);
  sequence.last_token = Clock::now();
  if (sequence.num_generated() == 1) sequence.first_token = sequence.last_token;

  const auto& stop_ids = sequence.request.stop_ids;
  if (std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end()) {
    sequence.finished = FinishReason::kStop;
    return;
  }
  if (tokenizer_ != nullptr && id < tokenizer_->vocab_size()) {
    show(sequence, sequence.stream.push(tokenizer_->decode({id}, /*skip_special=*/true)));
  }
  if (sequence.stream.stopped()) {
    sequence.finished = FinishReason::kStop;
  } else if (sequence.num_generated() == sequence.request.max_new) {
    sequence.finished = FinishReason::kLength;
  }
}

std::vector<Completion> Engine::settle() {
  std::vector<Completion> completions;
  const KvRow row = kv_row_of(model_.config(), attention::dtype_of(model_.dtype()));
  for (const auto& sequence : scheduler_.settle()) {
    show(*sequence, sequence->stream.finish());
    Completion completion;
    completion.request_id = sequence->request_id;
    completion.reason = *sequence->finished;
    completion.ids.assign(sequence->ids.begin() + sequence->prompt_len, sequence->ids.end());
    completion.text = std::move(sequence->text);
    completion.prompt_len = sequence->prompt_len;
    if (!completion.ids.empty()) {
      completion.prefill_ms = ms_between(sequence->started, sequence->first_token);
      completion.decode_ms = ms_between(sequence->first_token, sequence->last_token);
    }
    if (sequence->kv) completion.kv = kv_bytes_at(row, plan_.patterns, sequence->num_computed);
    completions.push_back(std::move(completion));
  }
  return completions;
}

void Engine::cancel(std::int64_t request_id) {
  Sequence* sequence = scheduler_.find(request_id);
  if (sequence != nullptr) sequence->finished = FinishReason::kCancelled;
}

Completion Engine::generate(Request request) {
  LOZA_CHECK(!has_work());
  submit(std::move(request));
  while (true) {
    std::vector<Completion> completions = step();
    if (!completions.empty()) return std::move(completions.front());
  }
}

void Engine::check(const Request& request) const {
  check_sampling(request.sampling, "request");
  if (request.prompt.empty()) {
    throw_usage("request: prompt", "at least one token", "none", "give a prompt with text");
  }
  for (const std::int64_t id : request.prompt) {
    if (id < 0 || id >= model_.config().vocab_size) {
      throw_usage("request: prompt", fmt::format("ids in [0, {})", model_.config().vocab_size),
                  fmt::format("{}", id), "use the model's own tokenizer");
    }
  }
  if (request.max_new < 1 || request.max_new > KvCache::kMaxTokens) {
    throw_usage("request: max-new", fmt::format("1 to {} tokens", KvCache::kMaxTokens),
                fmt::format("{}", request.max_new));
  }
  for (const std::string& stop : request.stops) {
    if (stop.empty()) throw_usage("request: stop", "a text", "an empty one");
  }
  LOZA_CHECK(tokenizer_ != nullptr || (request.stops.empty() && !request.on_text));
  const std::int64_t length =
      static_cast<std::int64_t>(request.prompt.size()) + request.max_new - 1;
  if (!cache_.could_ever_open(length)) {
    throw Error(
        ExitCode::kDoesNotFit,
        {"request", "a length that the KV cache holds",
         fmt::format("{} tokens of prompt and {} new ones", request.prompt.size(), request.max_new),
         "take a shorter prompt, fewer new tokens or a larger cache"});
  }
}

}  // namespace loza
