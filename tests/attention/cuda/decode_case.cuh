#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "loza/attention/cuda/decode.h"
#include "tests/attention/cuda/cuda_check.h"
#include "tests/attention/cuda/decode_reference.cuh"
#include "tests/attention/cuda/guarded_outputs.h"
#include "tests/attention/cuda/low_precision.cuh"
#include "tests/attention/cuda/truth.cuh"

// Decode problems with random contents and everything unseen poisoned.
namespace loza::attention::cuda {

struct DecodeShape {
  DType dtype = DType::kBF16;
  std::int64_t heads = 8, key_heads = 1, qk_size = 576, v_size = 512, q_len = 1;
  BlockPattern pattern;
  std::vector<std::int64_t> lengths;
  bool ring = false;     // only what the pattern keeps is resident, at wrapping slots
  bool strided = false;  // gaps between tokens, heads, rows and pages
  bool sink_queries = false;
  Scores scores = Scores::kRandom;
  std::uint64_t seed = 1;

  bool value_in_key() const { return qk_size == 576; }
  std::int64_t batch() const { return static_cast<std::int64_t>(lengths.size()); }
  std::int64_t longest() const {
    return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
  }
  std::string name() const {
    std::string text =
        std::string(dtype_name(dtype)) + " B" + std::to_string(batch()) + " T" +
        std::to_string(q_len) + " H" + std::to_string(heads) + "/" + std::to_string(key_heads) +
        " D" + std::to_string(qk_size) + " pattern " + std::to_string(pattern.sink_blocks) + "," +
        (pattern.is_full() ? "all" : std::to_string(pattern.recent_blocks)) +
        (ring ? " ring" : "") + (sink_queries ? " sink_q" : "") + (strided ? " strided" : "") +
        " scores " + std::to_string(static_cast<int>(scores)) + " seed " + std::to_string(seed) +
        " lengths";
    for (const auto length : lengths) text += " " + std::to_string(length);
    return text;
  }
};

// Device memory of a problem, and the params that point into it.
class DecodeCase {
 public:
  explicit DecodeCase(const DecodeShape& shape) : shape_(shape) {
    lay_out();
    fill_pages();
    fill_queries();
  }

  const DecodeShape& shape() const { return shape_; }
  const DecodeParams& params() const { return params_; }
  DecodeParams& params() { return params_; }
  std::int64_t num_rows() const { return shape_.batch() * shape_.q_len * shape_.heads; }

  using Result = Outputs;
  void poison_outputs() { outputs_.poison(); }
  Result read_outputs() const { return outputs_.read(); }

  // Where `result` leaves the bound of the arithmetic: P and the output rounded to the
  // element type, everything else in fp32. Empty if nowhere. Rows: all, or `most_rows`.
  std::string compare(const Result& result, std::int64_t most_rows) const {
    std::vector<std::int64_t> rows(num_rows());
    std::iota(rows.begin(), rows.end(), 0);
    if (num_rows() > most_rows) {
      std::mt19937_64 random(shape_.seed);
      std::shuffle(rows.begin(), rows.end(), random);
      rows.resize(most_rows);
    }
    if (rows.empty()) return "";
    const Truth truth = decode_truth(params_, rows, std::max<std::int64_t>(shape_.longest(), 1));
    const Bounds bounds(shape_.dtype, shape_.longest());
    if (const auto difference = first_difference(result, rows, truth, bounds)) {
      const std::int64_t row = rows[difference->row_idx], token = row / shape_.heads;
      return shape_.name() + ": b " + std::to_string(token / shape_.q_len) + " t " +
             std::to_string(token % shape_.q_len) + " h " + std::to_string(row % shape_.heads) +
             difference->text();
    }
    return result.canaries_alive ? "" : shape_.name() + ": wrote outside the output";
  }

  std::int64_t table_stride() const { return params_.kv.table_stride; }
  DeviceArray<std::int64_t>& lengths() { return lengths_; }

 private:
  static constexpr std::int32_t kPoisonPage = 0x7FFFFFF0;

  void lay_out() {
    const std::int64_t gap = shape_.strided ? 8 : 0;
    const std::int64_t g = shape_.key_heads;
    PagedKvView& kv = params_.kv;
    params_.num_sequences = shape_.batch();
    params_.q_len = shape_.q_len;
    params_.num_heads = shape_.heads;
    params_.num_key_heads = g;
    params_.qk_size = shape_.qk_size;
    params_.v_size = shape_.v_size;
    params_.pattern = shape_.pattern;
    params_.scale =
        1 / std::sqrt(static_cast<double>(shape_.value_in_key() ? 192 : shape_.qk_size));
    kv.dtype = shape_.dtype;
    kv.page_len = 64;
    kv.k_head_stride = shape_.qk_size + gap;
    if (shape_.value_in_key()) {
      kv.v_offset = 0;
      kv.v_head_stride = 0;
      kv.row_stride = shape_.qk_size + gap;
    } else {
      kv.v_offset = g * kv.k_head_stride;
      kv.v_head_stride = shape_.v_size + gap;
      kv.row_stride = kv.v_offset + g * kv.v_head_stride;
    }
    kv.page_stride = kv.page_len * kv.row_stride + 16 * gap;
    if (shape_.ring) {
      kv.sink_pages = shape_.pattern.sink_blocks * shape_.pattern.block_size / kv.page_len;
      kv.ring_pages =
          num_ring_blocks(shape_.pattern, shape_.q_len) * shape_.pattern.block_size / kv.page_len;
    }
    params_.q.head_stride = shape_.qk_size + gap;
    params_.q.token_stride = shape_.heads * params_.q.head_stride + gap;
    params_.out.head_stride = shape_.v_size + gap;
    params_.out.token_stride = shape_.heads * params_.out.head_stride + gap;
    outputs_ =
        GuardedOutputs(shape_.batch() * shape_.q_len, shape_.heads, shape_.v_size, params_.out);
    params_.out = outputs_.out();
    params_.lse = outputs_.lse();
  }

  bool seen(std::int64_t b, std::int64_t page) const {
    const std::int64_t length = shape_.lengths[b], first = page * 64;
    for (std::int64_t t = 0; t < shape_.q_len; ++t) {
      const std::int64_t q = length - shape_.q_len + t;
      if (q < 0 || first > q) continue;
      const std::int64_t key_block = first / shape_.pattern.block_size;
      if (key_block < shape_.pattern.sink_blocks ||
          key_block > q / shape_.pattern.block_size - shape_.pattern.recent_blocks) {
        return true;
      }
    }
    return false;
  }

  // Seen pages at random places of a pool of NaN; the rest of the table is poison.
  void fill_pages() {
    PagedKvView& kv = params_.kv;
    std::mt19937_64 random(shape_.seed);
    kv.table_stride = 1;
    for (const auto length : shape_.lengths) {
      for (std::int64_t page = 0; page * 64 < length; ++page) {
        kv.table_stride = std::max(kv.table_stride, page_slot(kv, page) + 1);
      }
    }
    std::vector<std::int32_t> table(std::max<std::int64_t>(1, shape_.batch()) * kv.table_stride,
                                    kPoisonPage);
    struct Page {
      std::int64_t b, page;
    };
    std::vector<Page> pages;
    for (std::int64_t b = 0; b < shape_.batch(); ++b) {
      for (std::int64_t page = 0; page * 64 < shape_.lengths[b]; ++page) {
        if (seen(b, page)) pages.push_back({b, page});
      }
    }
    const std::int64_t pool = static_cast<std::int64_t>(pages.size()) + 3;
    std::vector<std::int32_t> places(pool);
    std::iota(places.begin(), places.end(), 0);
    std::shuffle(places.begin(), places.end(), random);
    std::vector<float> gains(pool * 64, NAN);
    for (std::size_t i = 0; i < pages.size(); ++i) {
      const auto [b, page] = pages[i];
      table[b * kv.table_stride + page_slot(kv, page)] = places[i];
      for (std::int64_t row = 0; row < 64 && page * 64 + row < shape_.lengths[b]; ++row) {
        gains[places[i] * 64 + row] = gain(page * 64 + row);
      }
    }
    pages_ = DeviceArray<std::uint16_t>(pool * kv.page_stride);
    pages_.fill_bytes(0xFF);
    DeviceArray<float> device_gains(gains);
    // Without gaps between pages, rows are equally far apart throughout.
    for (std::int64_t page = 0; page < pool; ++page) {
      fill(pages_.data() + page * kv.page_stride, 64, kv.row_stride,
           device_gains.data() + page * 64, shape_.seed * 1000003 + page);
    }
    table_ = DeviceArray<std::int32_t>(table);
    lengths_ = DeviceArray<std::int64_t>(std::max<std::int64_t>(1, shape_.batch()));
    lengths_.put(shape_.lengths);
    kv.pages = pages_.data();
    kv.page_table = table_.data();
    kv.lengths = lengths_.data();
  }

  float gain(std::int64_t pos) const {
    if (shape_.scores == Scores::kGrowing) return 0.25f + static_cast<float>(pos) / 128;
    return 1;
  }

  void fill_queries() {
    const std::int64_t rows = std::max<std::int64_t>(1, shape_.batch() * shape_.q_len);
    const float gain = shape_.scores == Scores::kEqual   ? 0.0f
                       : shape_.scores == Scores::kLarge ? 40.0f
                                                         : 1.0f;
    q_ = DeviceArray<std::uint16_t>(rows * params_.q.token_stride);
    DeviceArray<float> gains(std::vector<float>(rows, gain));
    fill(q_.data(), rows, params_.q.token_stride, gains.data(), shape_.seed + 77);
    params_.q.data = q_.data();
    if (!shape_.sink_queries) return;
    sink_q_ = DeviceArray<std::uint16_t>(rows * params_.q.token_stride);
    fill(sink_q_.data(), rows, params_.q.token_stride, gains.data(), shape_.seed + 78);
    params_.sink_q = {sink_q_.data(), params_.q.token_stride, params_.q.head_stride};
  }

  void fill(std::uint16_t* data, std::int64_t rows, std::int64_t row_size, const float* gains,
            std::uint64_t seed) {
    fill_random_rows(shape_.dtype, data, rows, row_size, gains, seed);
  }

  DecodeShape shape_;
  DecodeParams params_;
  DeviceArray<std::uint16_t> pages_, q_, sink_q_;
  GuardedOutputs outputs_;
  DeviceArray<std::int32_t> table_;
  DeviceArray<std::int64_t> lengths_;
};

// A workspace as its contract says: zero once.
class Workspace {
 public:
  Workspace(const DecodeParams& params, const DecodePlan& plan)
      : bytes_(decode_workspace_bytes(params, plan)) {
    bytes_.fill_bytes(0);
  }
  void* data() const { return bytes_.data(); }
  std::size_t size() const { return bytes_.size(); }

 private:
  DeviceArray<std::uint8_t> bytes_;
};

}  // namespace loza::attention::cuda
