#include <algorithm>
#include <cstddef>
#include <memory>
#include <numbers>
#include <vector>

#include "loza/attention/check_params.h"
#include "loza/attention/cpu/backward_operands.h"
#include "loza/attention/cpu/buffer.h"
#include "loza/attention/cpu/cpu.h"
#include "loza/attention/cpu/row_address.h"
#include "loza/attention/cpu/steps.h"
#include "loza/attention/cpu/tile.h"
#include "loza/base/check.h"
#include "loza/base/parallel_for.h"

// Queries are cut into runs of tiles. A run walks the keys that its tiles see, writes the
// gradients of its queries, and keeps partial gradients of those keys; then, key by key, the
// runs' parts are added in their order. The cut depends on the problem alone, so the bits do
// not depend on the number of threads.
namespace loza::cpu {
namespace {

// Runs of a sequence, over all key heads: enough to share out, few enough for the memory of
// partial gradients.
constexpr std::int64_t kRunsOfSequence = 32;
constexpr std::int64_t kMinRunsOfHead = 4, kMaxRunsOfHead = 16;
// Partial gradients that exist at one time, in numbers, unless one key head needs more.
constexpr std::int64_t kMaxPartialSize = std::int64_t{1} << 26;

// One backward call.
struct Call {
  const BackwardParams& params;
  const BackwardParams of_sink;  // the same with sink_q and its gradient for q
  const TileKernels& kernels;
  const BackwardSizes sizes;

  explicit Call(const BackwardParams& of)
      : params(of),
        of_sink(with_sink_queries(of)),
        kernels(tile_kernels(of.forward.dtype)),
        sizes(of.forward, kernels) {}

  static BackwardParams with_sink_queries(BackwardParams params) {
    params.forward.q = params.forward.sink_q;
    params.d_q = params.d_sink_q;
    return params;
  }
};

// Consecutive queries of one key head's heads, with their parts of the gradients of keys.
class Run {
 public:
  Run(const KeyHead& head, const BlockPattern& pattern, std::int64_t begin_pos,
      std::int64_t end_pos)
      : head_(head),
        begin_pos_(begin_pos),
        end_pos_(end_pos),
        layout_(KeyLayout::of(pattern, begin_pos, end_pos)) {}

  void compute(const Call& call, const KeyOperands& keys);

  std::int64_t partial_size(const BackwardSizes& sizes) const {
    return layout_.num_keys() * (sizes.qk_panels + sizes.v_panels) * kLanes;
  }
  bool sees(std::int64_t pos) const { return layout_.has(pos / layout_.block_size); }
  // Gradients of the key and the value at a position. REQUIRES: sees(pos).
  float* d_key(std::int64_t pos, const BackwardSizes& sizes) const {
    return d_keys_.data() + layout_.packed_key(pos) * sizes.qk_panels * kLanes;
  }
  float* d_value(std::int64_t pos, const BackwardSizes& sizes) const {
    return d_values_.data() + layout_.packed_key(pos) * sizes.v_panels * kLanes;
  }

 private:
  void begin_at_zero(const BackwardSizes& sizes);
  // Queries of one head at [begin_pos, end_pos), in one block and at most kTileRows.
  void compute_tile(const Call& call, const KeyOperands& keys, std::int64_t head_idx,
                    std::int64_t begin_pos, std::int64_t end_pos);

  const KeyHead& head_;
  std::int64_t begin_pos_, end_pos_;
  KeyLayout layout_;
  Buffer<float> d_keys_, d_values_;
};

void Run::begin_at_zero(const BackwardSizes& sizes) {
  const std::int64_t keys_size = layout_.num_keys() * sizes.qk_panels * kLanes;
  const std::int64_t values_size = layout_.num_keys() * sizes.v_panels * kLanes;
  std::fill_n(d_keys_.grow(keys_size), keys_size, 0.0f);
  std::fill_n(d_values_.grow(values_size), values_size, 0.0f);
}

void Run::compute_tile(const Call& call, const KeyOperands& keys, std::int64_t head_idx,
                       std::int64_t begin_pos, std::int64_t end_pos) {
  thread_local QueryOperands queries, sink_queries;
  const ForwardParams& forward = call.params.forward;
  queries.start(call.params, call.kernels, call.sizes, head_.rows, head_idx, begin_pos, end_pos);
  const bool has_sink_q = forward.sink_q.data != nullptr;
  if (has_sink_q) {
    sink_queries.start(call.of_sink, call.kernels, call.sizes, head_.rows, head_idx, begin_pos,
                       end_pos);
  }

  BackwardStep step;
  step.qk_words = call.sizes.qk_words;
  step.v_words = call.sizes.v_words;
  step.qk_panels = call.sizes.qk_panels;
  step.v_panels = call.sizes.v_panels;
  step.scale_log2 = static_cast<float>(forward.scale * std::numbers::log2e);
  const VisibleBlocks visible =
      visible_blocks(forward.pattern, begin_pos / forward.pattern.block_size);
  const auto walk = [&](const BlockRange& range, const QueryOperands& operands) {
    operands.fill(step);
    for_each_step(forward.pattern, range, end_pos, kStepKeys, [&](const KeyStep& key_step) {
      keys.fill(head_.layout.packed_key(key_step.first_pos), step);
      step.num_keys = key_step.num_keys;
      step.first_row = key_step.first_pos - begin_pos;
      step.d_keys = d_key(key_step.first_pos, call.sizes);
      step.d_values = d_value(key_step.first_pos, call.sizes);
      call.kernels.backward_step(step);
    });
  };
  walk(visible.sink, has_sink_q ? sink_queries : queries);
  walk(visible.recent, queries);
  queries.finish(call.params, call.kernels);
  if (has_sink_q) sink_queries.finish(call.of_sink, call.kernels);
}

void Run::compute(const Call& call, const KeyOperands& keys) {
  const ForwardParams& forward = call.params.forward;
  const std::int64_t block = forward.pattern.block_size;
  const std::int64_t group = forward.num_heads / forward.num_key_heads;
  begin_at_zero(call.sizes);
  std::int64_t begin = begin_pos_;
  while (begin < end_pos_) {
    const std::int64_t end = std::min({begin + kTileRows, (begin / block + 1) * block, end_pos_});
    for (std::int64_t h = head_.key_head * group; h < (head_.key_head + 1) * group; ++h) {
      compute_tile(call, keys, h, begin, end);
    }
    begin = end;
  }
}

// Runs of whole blocks, and of at least one tile of full size, as equal as that allows.
std::vector<Run> runs_of(const KeyHead& head, const ForwardParams& params) {
  const BlockPattern& pattern = params.pattern;
  const std::int64_t max_runs =
      std::clamp(kRunsOfSequence / params.num_key_heads, kMinRunsOfHead, kMaxRunsOfHead);
  std::vector<Run> runs;
  if (!head.has_queries()) return runs;
  const std::int64_t unit = round_up(kTileRows, pattern.block_size);
  const std::int64_t end_pos = head.rows.end_pos();
  const std::int64_t num_units = (end_pos - 1) / unit - head.first_pos / unit + 1;
  const std::int64_t run_len = (num_units + max_runs - 1) / max_runs * unit;
  std::int64_t begin = head.first_pos;
  while (begin < end_pos) {
    const std::int64_t end = std::min(begin / unit * unit + run_len, end_pos);
    runs.emplace_back(head, pattern, begin, end);
    begin = end;
  }
  return runs;
}

// One key head's part of a call.
struct HeadWork {
  KeyHead head;
  KeyOperands keys;
  std::vector<Run> runs;  // refer to `head`

  HeadWork(const Call& call, const KeyHead& of)
      : head(of),
        keys(call.params.forward, call.kernels, call.sizes, head),
        runs(runs_of(head, call.params.forward)) {}

  std::int64_t partial_size(const BackwardSizes& sizes) const {
    std::int64_t sum = 0;
    for (const Run& run : runs) sum += run.partial_size(sizes);
    return sum;
  }
};

// Adds the runs' parts for the key and the value at a position, and writes the sums.
void write_key_gradients(const Call& call, const HeadWork& work, std::int64_t pos) {
  thread_local std::vector<float> sum;
  const ForwardParams& forward = call.params.forward;
  const std::int64_t token = work.head.rows.key_row(pos);
  const auto write = [&](const TensorView& to, std::int64_t size, double factor,
                         float* (Run::*part)(std::int64_t, const BackwardSizes&) const) {
    if (to.data == nullptr) return;
    sum.assign(static_cast<std::size_t>(size), 0.0f);
    for (const Run& run : work.runs) {
      if (!run.sees(pos)) continue;
      const float* row = (run.*part)(pos, call.sizes);
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += row[i];
    }
    call.kernels.store_row(sum.data(), static_cast<float>(factor), size, forward.dtype,
                           row_address(to, forward.dtype, token, work.head.key_head));
  };
  write(call.params.d_k, forward.qk_size, forward.scale, &Run::d_key);
  write(call.params.d_v, forward.v_size, 1, &Run::d_value);
}

using Wave = std::vector<std::unique_ptr<HeadWork>>;

// Calls body(work, i) for i in [0, count(work)) of every work, in parallel.
template <typename Count, typename Body>
void for_each_in_wave(const Wave& wave, const Count& count, const Body& body) {
  std::vector<std::pair<HeadWork*, std::int64_t>> items;
  for (const auto& work : wave) {
    for (std::int64_t i = 0; i < count(*work); ++i) items.emplace_back(work.get(), i);
  }
  parallel_for(static_cast<std::int64_t>(items.size()), [&](std::int64_t item) {
    const auto& [work, i] = items[static_cast<std::size_t>(item)];
    body(*work, i);
  });
}

void run_wave(const Call& call, const Wave& wave) {
  const std::int64_t block = call.params.forward.pattern.block_size;
  for_each_in_wave(
      wave, [](const HeadWork& work) { return work.head.layout.num_blocks(); },
      [](HeadWork& work, std::int64_t slot) { work.keys.pack_block(slot); });
  // Later runs may see more: they go first.
  for_each_in_wave(
      wave, [](const HeadWork& work) { return static_cast<std::int64_t>(work.runs.size()); },
      [&](HeadWork& work, std::int64_t i) {
        work.runs[work.runs.size() - 1 - static_cast<std::size_t>(i)].compute(call, work.keys);
      });
  for_each_in_wave(
      wave, [&](const HeadWork& work) { return (work.head.rows.end_pos() + block - 1) / block; },
      [&](const HeadWork& work, std::int64_t block_idx) {
        const std::int64_t end = std::min((block_idx + 1) * block, work.head.rows.end_pos());
        for (std::int64_t pos = block_idx * block; pos < end; ++pos) {
          write_key_gradients(call, work, pos);
        }
      });
}

// Queries without a position get no gradient.
void write_blind_rows(const BackwardParams& params, const TileKernels& kernels,
                      std::int64_t sequence_idx) {
  const ForwardParams& forward = params.forward;
  if (params.d_q.data == nullptr) return;
  const SequenceRows rows = sequence_rows(forward, sequence_idx);
  const std::vector<float> zeros(static_cast<std::size_t>(forward.qk_size), 0.0f);
  const std::int64_t num_blind =
      std::clamp<std::int64_t>(-rows.first_query_pos(), 0, rows.q_end - rows.q_begin);
  for (std::int64_t token = rows.q_begin; token < rows.q_begin + num_blind; ++token) {
    for (std::int64_t h = 0; h < forward.num_heads; ++h) {
      kernels.store_row(zeros.data(), 0.0f, forward.qk_size, forward.dtype,
                        row_address(params.d_q, forward.dtype, token, h));
    }
  }
}

}  // namespace

void attend_backward(const BackwardParams& params) {
  check_params(params);
  const ForwardParams& forward = params.forward;
  const bool has_queries =
      forward.num_sequences > 0 && forward.q_offsets[forward.num_sequences] > 0;
  LOZA_CHECK(forward.lse != nullptr || !has_queries);
  const Call call(params);
  Wave wave;
  std::int64_t partial_size = 0;
  for (std::int64_t b = 0; b < forward.num_sequences; ++b) {
    write_blind_rows(call.params, call.kernels, b);
    if (forward.sink_q.data != nullptr) write_blind_rows(call.of_sink, call.kernels, b);
    for (std::int64_t g = 0; g < forward.num_key_heads; ++g) {
      auto work = std::make_unique<HeadWork>(call, KeyHead::of(forward, b, g));
      const std::int64_t size = work->partial_size(call.sizes);
      if (!wave.empty() && partial_size + size > kMaxPartialSize) {
        run_wave(call, wave);
        wave.clear();
        partial_size = 0;
      }
      partial_size += size;
      wave.push_back(std::move(work));
    }
  }
  run_wave(call, wave);
}

}  // namespace loza::cpu
