#include "loza/engine/speed.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <span>
#include <vector>

#include "loza/base/check.h"
#include "loza/base/random.h"
#include "loza/engine/device_memory.h"
#include "loza/engine/engine.h"
#include "loza/engine/step_runner.h"

namespace loza {
namespace {

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

// One sequence that is fed ids, for its time alone.
class Runner {
 public:
  Runner(const Transformer& model, const AttentionPlan& plan, std::int64_t max_len,
         std::int64_t budget_bytes)
      : plan_(plan),
        cache_(kv_row_of(model.config(), attention::dtype_of(model.dtype())), plan.patterns,
               {1, max_len, budget_bytes, /*poison=*/false, kv_allocator(model.device())}),
        steps_(model, plan_, cache_),
        max_len_(max_len),
        sequence_(cache_.open(max_len)) {}

  void restart() {
    cache_.close(sequence_);
    sequence_ = cache_.open(max_len_);
  }

  // The most likely id after `ids`.
  std::int64_t feed(std::span<const std::int64_t> ids) {
    const std::int64_t begin = cache_.length(sequence_);
    const auto num_new = static_cast<std::int64_t>(ids.size());
    cache_.append(sequence_, num_new);
    StepTokens tokens;
    tokens.ids.assign(ids.begin(), ids.end());
    tokens.positions.resize(ids.size());
    std::iota(tokens.positions.begin(), tokens.positions.end(), begin);
    tokens.offsets.push_back(num_new);
    tokens.sequences = {sequence_};
    return steps_.logits(tokens, {num_new - 1}).argmax().item<std::int64_t>();
  }

  std::int64_t feed_prompt(std::span<const std::int64_t> prompt, std::int64_t chunk_len) {
    std::int64_t next = 0;
    while (!prompt.empty()) {
      const auto chunk = prompt.first(std::min(prompt.size(), static_cast<std::size_t>(chunk_len)));
      next = feed(chunk);
      prompt = prompt.subspan(chunk.size());
    }
    return next;
  }

  std::int64_t feed_greedy(std::int64_t id, std::int64_t num_tokens) {
    for (std::int64_t i = 0; i < num_tokens; ++i) id = feed({&id, 1});
    return id;
  }

  KvBytes kv_bytes() const { return cache_.used_bytes(); }

 private:
  AttentionPlan plan_;
  KvCache cache_;
  StepRunner steps_;
  std::int64_t max_len_;
  KvSequence sequence_;
};

std::vector<std::int64_t> random_prompt(std::int64_t length, std::int64_t vocab_size,
                                        std::uint64_t seed) {
  Random random(seed);
  std::vector<std::int64_t> ids(static_cast<std::size_t>(length));
  for (std::int64_t& id : ids) id = random.below(vocab_size);
  return ids;
}

// Repeats `timed`, which returns its seconds, and returns the median.
template <typename Timed>
double median_seconds(const SpeedOptions& options, const Timed& timed) {
  std::vector<double> seconds;
  double total = 0;
  do {
    seconds.push_back(timed());
    total += seconds.back();
  } while (static_cast<int>(seconds.size()) < options.repeats && total < options.max_seconds);
  return median(std::move(seconds));
}

}  // namespace

Speed measure_speed(const Transformer& model, const AttentionPlan& plan, std::int64_t length,
                    const SpeedOptions& options) {
  LOZA_CHECK(length >= 1 && options.chunk_len >= 0 && options.num_decoded >= 1, length,
             options.chunk_len, options.num_decoded);
  const std::int64_t chunk_len =
      options.chunk_len > 0 ? options.chunk_len : usual_chunk_len(model.device());
  // Decode warms up with its first tokens, and each repeat continues where the last one ended.
  constexpr std::int64_t kWarmUp = 4;
  const std::int64_t max_len = length + kWarmUp + options.repeats * options.num_decoded;
  Runner runner(model, plan, max_len, options.budget_bytes);
  const std::vector<std::int64_t> prompt =
      random_prompt(length, model.config().vocab_size, options.seed);
  runner.feed(std::span(prompt).first(static_cast<std::size_t>(std::min(length, chunk_len))));

  Speed speed;
  speed.length = length;
  std::int64_t next = 0;
  const double prefill_seconds = median_seconds(options, [&] {
    runner.restart();
    const Clock::time_point begin = Clock::now();
    next = runner.feed_prompt(prompt, chunk_len);
    return seconds_since(begin);
  });
  speed.prefill_per_second = static_cast<double>(length) / prefill_seconds;
  speed.kv = runner.kv_bytes();

  next = runner.feed_greedy(next, kWarmUp);
  const double decode_seconds = median_seconds(options, [&] {
    const Clock::time_point begin = Clock::now();
    next = runner.feed_greedy(next, options.num_decoded);
    return seconds_since(begin);
  });
  speed.decode_per_second = static_cast<double>(options.num_decoded) / decode_seconds;
  return speed;
}

}  // namespace loza
