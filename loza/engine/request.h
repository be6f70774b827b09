#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "loza/engine/kv_cache.h"
#include "loza/engine/sampler.h"

namespace loza {

// What a caller asks of the engine.
struct Request {
  std::vector<std::int64_t> prompt;  // ids, at least one
  std::int64_t max_new = 256;        // tokens to generate, at least one
  SamplingOptions sampling;
  std::vector<std::int64_t> stop_ids;  // end the text and are no part of it
  std::vector<std::string> stops;      // likewise, none empty; needs a tokenizer
  // Called by step() with each piece of text that can be shown: whole UTF-8 characters, never
  // a part of a stop string. May be empty. Needs a tokenizer.
  std::function<void(std::string_view piece)> on_text;
};

enum class FinishReason {
  kStop,       // a stop id or a stop string
  kLength,     // max_new tokens
  kBroken,     // logits that are NaN or infinite
  kCancelled,  // Engine::cancel
};

// "stop", "length", "broken" or "cancelled".
const char* finish_reason_name(FinishReason reason);

// What became of a request.
struct Completion {
  std::int64_t request_id = -1;
  FinishReason reason = FinishReason::kStop;
  std::vector<std::int64_t> ids;  // generated ones, a stop id included
  std::string text;               // of the ids, up to the stop; empty without a tokenizer
  std::int64_t prompt_len = 0;
  double prefill_ms = 0;  // from its first chunk to its first token
  double decode_ms = 0;   // from there to its last token
  KvBytes kv;             // that the sequence held in the end
};

}  // namespace loza
