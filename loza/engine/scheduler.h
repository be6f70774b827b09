#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "loza/engine/kv_cache.h"
#include "loza/engine/request.h"
#include "loza/engine/sampler.h"
#include "loza/engine/text_stream.h"

namespace loza {

using Clock = std::chrono::steady_clock;

// A request that waits or runs.
//   ids = prompt and generated tokens; the first num_computed have their keys and values in
//   the cache, the others are pending. One pending token: it decodes; more: it prefills.
struct Sequence {
  Sequence(std::int64_t id, Request asked);

  std::int64_t num_pending() const { return static_cast<std::int64_t>(ids.size()) - num_computed; }
  std::int64_t num_generated() const { return static_cast<std::int64_t>(ids.size()) - prompt_len; }
  // The last token is never fed back, so it needs no place.
  std::int64_t max_len() const { return prompt_len + request.max_new - 1; }

  std::int64_t request_id;
  Request request;
  std::int64_t prompt_len;
  std::vector<std::int64_t> ids;
  std::int64_t num_computed = 0;
  std::optional<KvSequence> kv;  // while it runs
  Sampler sampler;
  TextStream stream;
  std::string text;
  std::optional<FinishReason> finished;
  Clock::time_point started, first_token, last_token;
};

// The next num_new pending tokens of a sequence, to run in this step.
struct Piece {
  Sequence* sequence = nullptr;
  std::int64_t num_new = 0;

  // Whether the step computes the last pending token, after which the next one is sampled.
  bool ends_pending() const { return num_new == sequence->num_pending(); }
};

// Decides what runs next. Requests are admitted in their order as soon as the cache can promise
// them their full length, so a running sequence never runs out of memory. Steps alternate
// between chunks of prompts and one token for each sequence that decodes, while there are both.
// Not thread-safe.
class Scheduler {
 public:
  // Prompts are cut into chunks of chunk_len tokens; a step's chunks have no more together.
  Scheduler(KvCache& cache, std::int64_t chunk_len);

  void submit(std::unique_ptr<Sequence> sequence);
  // What to run now, with room for it in the cache; empty when nothing is left.
  std::vector<Piece> schedule();
  // Removes the finished sequences and frees their memory.
  std::vector<std::unique_ptr<Sequence>> settle();

  // null when there is no such request.
  Sequence* find(std::int64_t request_id);
  bool has_work() const { return !waiting_.empty() || !running_.empty(); }
  std::int64_t num_waiting() const { return static_cast<std::int64_t>(waiting_.size()); }
  std::int64_t num_running() const { return static_cast<std::int64_t>(running_.size()); }

 private:
  void admit();
  std::vector<Piece> prefill_pieces() const;
  std::vector<Piece> decode_pieces() const;

  KvCache& cache_;
  std::int64_t chunk_len_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in the order of admission
  bool last_was_prefill_ = false;
};

}  // namespace loza
