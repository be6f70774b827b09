#include "loza/engine/speed.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>

#include "loza/base/check.h"
#include "loza/base/random.h"
#include "loza/engine/device_memory.h"
#include "loza/engine/engine.h"

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
      : model_(model),
        plan_(plan),
        cache_(kv_row_of(model.config(), attention::dtype_of(model.dtype())), plan.patterns,
               {1, max_len, budget_bytes, /*poison=*/false, kv_allocator(model.device())}),
        max_len_(max_len),
        sequence_(cache_.open(max_len)) {}

  void restart() {
    cache_.close(sequence_);
    sequence_ = cache_.open(max_len_);
  }

  // ids [T] -> the most likely next id.
  std::int64_t feed(const at::Tensor& ids) {
    const std::int64_t begin = cache_.length(sequence_);
    cache_.append(sequence_, ids.size(0));
    ForwardBatch batch;
    batch.ids = ids.to(model_.device());
    batch.positions = at::arange(begin, begin + ids.size(0), batch.ids.options());
    batch.offsets = {0, ids.size(0)};
    batch.plan = &plan_;
    batch.kv = &cache_.views({sequence_});
    const at::Tensor hidden = model_.forward(batch);
    return model_.logits(hidden.slice(0, hidden.size(0) - 1)).argmax().item<std::int64_t>();
  }

  std::int64_t feed_prompt(const at::Tensor& prompt, std::int64_t chunk_len) {
    std::int64_t next = 0;
    for (const at::Tensor& chunk : prompt.split(chunk_len)) next = feed(chunk);
    return next;
  }

  std::int64_t feed_greedy(std::int64_t id, std::int64_t num_tokens) {
    for (std::int64_t i = 0; i < num_tokens; ++i) id = feed(at::full({1}, id, at::kLong));
    return id;
  }

  KvBytes kv_bytes() const { return cache_.used_bytes(); }

 private:
  const Transformer& model_;
  const AttentionPlan& plan_;
  KvCache cache_;
  std::int64_t max_len_;
  KvSequence sequence_;
};

at::Tensor random_prompt(std::int64_t length, std::int64_t vocab_size, std::uint64_t seed) {
  Random random(seed);
  at::Tensor ids = at::empty({length}, at::kLong);
  auto* id = ids.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < length; ++i) id[i] = random.below(vocab_size);
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
  c10::InferenceMode no_gradients;
  // Decode warms up with its first tokens, and each repeat continues where the last one ended.
  constexpr std::int64_t kWarmUp = 4;
  const std::int64_t max_len = length + kWarmUp + options.repeats * options.num_decoded;
  Runner runner(model, plan, max_len, options.budget_bytes);
  const at::Tensor prompt = random_prompt(length, model.config().vocab_size, options.seed);
  runner.feed(prompt.slice(0, 0, std::min(length, chunk_len)));

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
