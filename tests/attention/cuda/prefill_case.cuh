#pragma once

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "loza/attention/sequence.h"
#include "tests/attention/cuda/guarded_outputs.h"
#include "tests/attention/cuda/low_precision.cuh"
#include "tests/attention/cuda/prefill_reference.cuh"
#include "tests/attention/cuda/truth.cuh"

// Prefill problems with random contents and everything unseen poisoned.
namespace loza::attention::cuda {

struct Chunk {
  std::int64_t q_len, k_len;  // the last q_len of k_len positions are asked
};

struct PrefillProblem {
  DType dtype = DType::kBF16;
  std::int64_t heads = 2, key_heads = 2, qk_size = 192, v_size = 128;
  BlockPattern pattern;
  std::vector<Chunk> chunks;
  bool shared_tail = false, sink_queries = false;
  bool leave_out = false;  // keys that no query sees are not there
  bool strided = false;    // gaps between tokens and heads
  Scores scores = Scores::kRandom;
  std::uint64_t seed = 1;

  std::int64_t longest() const {
    std::int64_t longest = 1;
    for (const Chunk& chunk : chunks) longest = std::max(longest, chunk.k_len);
    return longest;
  }
  std::string name() const {
    std::string text = std::string(dtype_name(dtype)) + " H" + std::to_string(heads) + "/" +
                       std::to_string(key_heads) + " D" + std::to_string(qk_size) + "/" +
                       std::to_string(v_size) + " pattern " + std::to_string(pattern.block_size) +
                       ":" + std::to_string(pattern.sink_blocks) + "," +
                       (pattern.is_full() ? "all" : std::to_string(pattern.recent_blocks)) +
                       (shared_tail ? " tail" : "") + (sink_queries ? " sink_q" : "") +
                       (leave_out ? " left out" : "") + (strided ? " strided" : "") + " scores " +
                       std::to_string(static_cast<int>(scores)) + " seed " + std::to_string(seed) +
                       " chunks";
    for (const Chunk& chunk : chunks) {
      text += " " + std::to_string(chunk.q_len) + "of" + std::to_string(chunk.k_len);
    }
    return text;
  }
};

// Device memory of a problem, and the params that point into it.
class PrefillCase {
 public:
  explicit PrefillCase(const PrefillProblem& problem) : problem_(problem) {
    place_sequences();
    lay_out();
    fill();
  }
  PrefillCase(const PrefillCase&) = delete;

  const PrefillProblem& problem() const { return problem_; }
  ForwardParams& params() { return params_; }
  const ForwardParams& params() const { return params_; }
  SharedKeyTail tail() const { return tail_; }
  std::int64_t num_tokens() const { return q_offsets_.back(); }

  using Result = Outputs;
  using Bits = GuardedOutputs::Bits;
  void poison_outputs() { outputs_.poison(); }
  Result read_outputs() const { return outputs_.read(); }
  Bits read_bits() const { return outputs_.read_bits(); }

  // Where `result` leaves the bound of the arithmetic; empty if nowhere. Of `most_rows` rows:
  // those at the edges of sequences and blocks first, then any.
  std::string compare(const Result& result, std::int64_t most_rows) const {
    const std::vector<ReferenceRow> rows = choose_rows(most_rows);
    if (rows.empty()) return "";
    std::vector<std::int64_t> indices;
    for (const ReferenceRow& at : rows) indices.push_back(at.row * problem_.heads + at.head);
    const Bounds bounds(problem_.dtype, problem_.longest());
    if (const auto difference = first_difference(result, indices, compute(rows), bounds)) {
      const ReferenceRow& at = rows[difference->row_idx];
      return problem_.name() + ": row " + std::to_string(at.row) + " pos " +
             std::to_string(at.pos) + " h " + std::to_string(at.head) + difference->text();
    }
    return result.canaries_alive ? "" : problem_.name() + ": wrote outside the output";
  }

  Truth compute(const std::vector<ReferenceRow>& rows) const {
    return prefill_truth(params_, tail_, rows, problem_.longest());
  }

  ReferenceRow row_at(std::size_t sequence, std::int64_t row, std::int64_t head) const {
    const SequenceRows rows = sequence_rows(params_, static_cast<std::int64_t>(sequence));
    return {row,
            head,
            rows.first_query_pos() + row - rows.q_begin,
            rows.k_begin,
            rows.skipped == 0 ? std::int64_t{1} << 40 : rows.kept_prefix,
            rows.skipped};
  }

  // Fills the queries, keys and values of one sequence with NaN.
  void poison_sequence(std::size_t b) {
    const auto poison = [](DeviceArray<std::uint16_t>& array, std::int64_t stride,
                           std::int64_t begin, std::int64_t end) {
      LOZA_CUDA_CHECK(cudaMemset(array.data() + begin * stride, 0xFF, (end - begin) * stride * 2));
    };
    poison(q_, params_.q.token_stride, q_offsets_[b], q_offsets_[b + 1]);
    poison(k_, params_.k.token_stride, k_offsets_[b], k_offsets_[b + 1]);
    poison(v_, params_.v.token_stride, k_offsets_[b], k_offsets_[b + 1]);
  }

  // The same numbers on the host, as the CPU's implementations take them.
  struct OnHost {
    ForwardParams params;
    std::vector<std::uint16_t> q, sink_q, k, v, out;
    std::vector<float> lse;
  };
  OnHost on_host() const {
    OnHost host{params_, q_.get(), sink_q_.get(), k_.get(), v_.get(), read_bits().out, {}};
    host.lse.resize(num_tokens() * problem_.heads);
    return host;
  }

 private:
  void place_sequences() {
    const std::int64_t block = problem_.pattern.block_size;
    for (const Chunk& chunk : problem_.chunks) {
      std::int64_t kept = 0, skipped = 0;
      const std::int64_t first = chunk.k_len - chunk.q_len;
      if (problem_.leave_out && chunk.q_len > 0 && first >= 0) {
        const VisibleBlocks blocks = visible_blocks(problem_.pattern, first / block);
        kept = blocks.sink.end * block;
        skipped = blocks.recent.begin * block - kept;
      }
      kept_prefix_.push_back(kept);
      skipped_.push_back(skipped);
      q_offsets_.push_back(q_offsets_.back() + chunk.q_len);
      k_offsets_.push_back(k_offsets_.back() + chunk.k_len - skipped);
    }
    params_.num_sequences = static_cast<std::int64_t>(problem_.chunks.size());
    params_.q_offsets = q_offsets_.data();
    params_.k_offsets = k_offsets_.data();
    if (problem_.leave_out) {
      params_.kept_prefix = kept_prefix_.data();
      params_.skipped = skipped_.data();
    }
  }

  void lay_out() {
    const std::int64_t gap = problem_.strided ? 8 : 0;
    const auto view = [&](std::int64_t heads, std::int64_t size) {
      return TensorView{nullptr, heads * (size + gap) + 2 * gap, size + gap};
    };
    params_.dtype = problem_.dtype;
    params_.num_heads = problem_.heads;
    params_.num_key_heads = problem_.key_heads;
    params_.qk_size = problem_.qk_size;
    params_.v_size = problem_.v_size;
    params_.pattern = problem_.pattern;
    params_.scale = 1 / std::sqrt(static_cast<double>(problem_.qk_size));
    params_.q = view(problem_.heads, problem_.qk_size);
    params_.k = view(problem_.key_heads, problem_.qk_size - (problem_.shared_tail ? 64 : 0));
    params_.v = view(problem_.key_heads, problem_.v_size);
    params_.out = view(problem_.heads, problem_.v_size);
    const std::int64_t queries = q_offsets_.back(), keys = k_offsets_.back();
    const auto allocate = [](std::int64_t tokens, TensorView& view) {
      DeviceArray<std::uint16_t> array(std::max<std::int64_t>(1, tokens) * view.token_stride);
      view.data = array.data();
      return array;
    };
    q_ = allocate(queries, params_.q);
    k_ = allocate(keys, params_.k);
    v_ = allocate(keys, params_.v);
    if (problem_.sink_queries) {
      params_.sink_q = params_.q;
      sink_q_ = allocate(queries, params_.sink_q);
    }
    if (problem_.shared_tail) {
      TensorView view = {nullptr, 64 + gap, 0};
      k_tail_ = allocate(keys, view);
      tail_ = {view.data, view.token_stride};
    }
    outputs_ = GuardedOutputs(queries, problem_.heads, problem_.v_size, params_.out);
    params_.out = outputs_.out();
    params_.lse = outputs_.lse();
  }

  bool seen(std::int64_t first, std::int64_t end, std::int64_t pos) const {
    const std::int64_t block = problem_.pattern.block_size, key_block = pos / block;
    for (std::int64_t q = std::max(first, pos); q < end; q = (q / block + 1) * block) {
      if (key_block < problem_.pattern.sink_blocks ||
          key_block > q / block - problem_.pattern.recent_blocks) {
        return true;
      }
    }
    return false;
  }

  void fill() {
    std::vector<float> q_gains(std::max<std::int64_t>(1, q_offsets_.back()), 1.0f), k_gains;
    for (float& gain : q_gains) {
      if (problem_.scores == Scores::kEqual) gain = 0;
      if (problem_.scores == Scores::kLarge) gain = 40;
    }
    for (std::size_t b = 0; b < problem_.chunks.size(); ++b) {
      const auto [q_len, k_len] = problem_.chunks[b];
      for (std::int64_t pos = 0; pos < k_len; ++pos) {
        if (pos >= kept_prefix_[b] && pos < kept_prefix_[b] + skipped_[b]) continue;
        float gain = 1;
        if (problem_.scores == Scores::kGrowing) gain = 0.25f + static_cast<float>(pos) / 128;
        k_gains.push_back(seen(k_len - q_len, k_len, pos) ? gain : NAN);
      }
    }
    const auto put = [&](DeviceArray<std::uint16_t>& array, std::int64_t row_size,
                         const std::vector<float>& gains, std::uint64_t seed) {
      array.fill_bytes(0xFF);
      DeviceArray<float> on_device(gains);
      fill_random_rows(problem_.dtype, array.data(), static_cast<std::int64_t>(gains.size()),
                       row_size, on_device.data(), problem_.seed * 1000003 + seed);
      LOZA_CUDA_CHECK(cudaDeviceSynchronize());
    };
    put(q_, params_.q.token_stride, q_gains, 1);
    put(k_, params_.k.token_stride, k_gains, 2);
    put(v_, params_.v.token_stride, k_gains, 3);
    if (problem_.sink_queries) put(sink_q_, params_.q.token_stride, q_gains, 4);
    if (problem_.shared_tail) put(k_tail_, tail_.token_stride, k_gains, 5);
  }

  std::vector<ReferenceRow> choose_rows(std::int64_t most_rows) const {
    std::vector<ReferenceRow> edges, others;
    std::mt19937_64 random(problem_.seed);
    for (std::size_t b = 0; b < problem_.chunks.size(); ++b) {
      for (std::int64_t row = q_offsets_[b]; row < q_offsets_[b + 1]; ++row) {
        const auto head = static_cast<std::int64_t>(random() % problem_.heads);
        const ReferenceRow at = row_at(b, row, head);
        const bool is_edge = row == q_offsets_[b] || row + 1 == q_offsets_[b + 1] ||
                             (at.pos + 1) % 128 <= 1 || at.pos % 128 == 64;
        (is_edge ? edges : others).push_back(at);
      }
    }
    std::shuffle(edges.begin(), edges.end(), random);
    std::shuffle(others.begin(), others.end(), random);
    const auto most_edges = static_cast<std::size_t>(most_rows * 2 / 3);
    if (edges.size() > most_edges) edges.resize(most_edges);
    for (const ReferenceRow& row : others) {
      if (static_cast<std::int64_t>(edges.size()) >= most_rows) break;
      edges.push_back(row);
    }
    return edges;
  }

  PrefillProblem problem_;
  std::vector<std::int64_t> q_offsets_{0}, k_offsets_{0}, kept_prefix_, skipped_;
  ForwardParams params_;
  SharedKeyTail tail_;
  DeviceArray<std::uint16_t> q_, sink_q_, k_, k_tail_, v_;
  GuardedOutputs outputs_;
};

}  // namespace loza::attention::cuda
