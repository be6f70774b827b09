#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "loza/engine/kv_cache.h"
#include "loza/engine/request.h"
#include "loza/engine/scheduler.h"
#include "loza/engine/step_runner.h"
#include "loza/model/plan.h"
#include "loza/model/transformer.h"
#include "loza/tokenizer/tokenizer.h"

namespace loza {

// Tokens of prompts that one step computes unless told otherwise: as many as keep a device busy.
std::int64_t usual_chunk_len(at::Device device);

struct EngineOptions {
  std::int64_t max_sequences = 8;  // that run at a time; others wait
  std::int64_t num_tokens = 8192;  // of prompt and text, of all running sequences together
  std::int64_t chunk_len = 0;      // tokens of prompts that one step computes; 0: usual_chunk_len
  std::int64_t budget_bytes = 0;   // of KV memory; 0: what the system says is available
  bool poison = false;             // KvLimits::poison, for tests
};

// Turns requests into tokens. One thread owns it: submit(), step() until has_work() is false,
// and take the completions that step() returns. The loop is the whole program:
//
//   Engine engine(model, plan, &tokenizer, {});
//   engine.submit({.prompt = tokenizer.encode("Once upon"), .max_new = 64});
//   while (engine.has_work()) {
//     for (const Completion& completion : engine.step()) use(completion);
//   }
//
// A sequence's tokens depend on its request alone, but for rounding: which others run beside it
// and how its prompt is cut change the order in which sums are taken.
class Engine {
 public:
  // `model` and `tokenizer` must outlive the engine. tokenizer may be null: then completions
  // have ids alone, and requests no stop strings.
  // Throws Error(kDoesNotFit) when the KV memory is beyond the budget.
  Engine(const Transformer& model, AttentionPlan plan, const Tokenizer* tokenizer,
         const EngineOptions& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Queues a request and returns its id. Throws Error(kUsage) for a request that makes no
  // sense, Error(kDoesNotFit) for one longer than the cache.
  std::int64_t submit(Request request);
  // One forward pass: a chunk of prompts, or a token of each sequence that decodes. Returns the
  // requests that ended with it.
  std::vector<Completion> step();
  bool has_work() const { return scheduler_.has_work(); }
  // Ends a request at the next step(). An id that is not known, or no longer, does nothing.
  void cancel(std::int64_t request_id);

  // Runs one request to its end. REQUIRES: !has_work().
  Completion generate(Request request);

  const KvCache& cache() const { return cache_; }
  const StepRunner& runner() const { return runner_; }
  const AttentionPlan& plan() const { return plan_; }

 private:
  // -> logits of the pieces that end their sequence's pending tokens [N, vocab] fp32, on the CPU
  at::Tensor run(const std::vector<Piece>& pieces);
  void sample(const std::vector<Piece>& pieces, const at::Tensor& logits);
  std::vector<Completion> settle();
  void accept(Sequence& sequence, std::int64_t id);
  void check(const Request& request) const;

  const Transformer& model_;
  AttentionPlan plan_;
  const Tokenizer* tokenizer_;
  KvCache cache_;
  StepRunner runner_;
  Scheduler scheduler_;
  std::int64_t next_id_ = 0;
};

}  // namespace loza
