#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "loza/engine/kv_cache.h"
#include "loza/model/plan.h"
#include "loza/model/transformer.h"

namespace loza {

struct SpeedOptions {
  std::int64_t chunk_len = 0;     // of prefill; 0: usual_chunk_len (engine.h)
  std::int64_t num_decoded = 32;  // tokens of one decode timing
  int repeats = 3;                // of each timing, after a warm-up; the median counts
  double max_seconds = 20;        // no further repeat of a timing that took so long already
  std::int64_t budget_bytes = 0;  // KvLimits::budget_bytes
  std::uint64_t seed = 0;         // of the random prompt
};

// How fast a model is with one sequence of `length` tokens.
struct Speed {
  std::int64_t length = 0;
  double prefill_per_second = 0;  // tokens of the prompt, from an empty cache to its last logits
  double decode_per_second = 0;   // tokens one by one, after a prompt of `length`
  KvBytes kv;                     // of the sequence when it has `length` tokens
};

// Prefill, then decode at that depth, of a random prompt. The text plays no part: sampling is
// greedy, tokenizing is not timed. For each length the last timed prefill is also what decode
// continues. REQUIRES: length >= 1.
// Throws Error(kDoesNotFit) when length + all decoded tokens exceed the memory.
Speed measure_speed(const Transformer& model, const AttentionPlan& plan, std::int64_t length,
                    const SpeedOptions& options);

}  // namespace loza
