#include "loza/attention/cpu/backward_operands.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <numbers>
#include <vector>

#include "loza/attention/cpu/row_address.h"

namespace loza::cpu {

KeyHead KeyHead::of(const ForwardParams& params, std::int64_t sequence_idx, std::int64_t key_head) {
  KeyHead head;
  head.key_head = key_head;
  head.rows = sequence_rows(params, sequence_idx);
  head.first_pos = std::max<std::int64_t>(0, head.rows.first_query_pos());
  if (head.has_queries()) {
    head.layout = KeyLayout::of(params.pattern, head.first_pos, head.rows.end_pos());
  }
  return head;
}

KeyOperands::KeyOperands(const ForwardParams& params, const TileKernels& kernels,
                         const BackwardSizes& sizes, const KeyHead& head)
    : params_(params), kernels_(kernels), sizes_(sizes), head_(head) {
  const std::int64_t num_keys = head.layout.num_keys();
  // An odd number of cache lines between rows, so that they don't share cache sets.
  transposed_stride_ = round_up(kernels.words(num_keys), 2 * kLanes) + kLanes;
  keys_.grow(num_keys * sizes.qk_words);
  values_.grow(num_keys * sizes.v_words);
  keys_transposed_.grow(sizes.qk_panels * kLanes * transposed_stride_);
}

void KeyOperands::pack_block(std::int64_t slot) {
  thread_local std::vector<const void*> rows;
  const KeyLayout& layout = head_.layout;
  const std::int64_t first_key = slot * layout.padded_block_size;
  const auto block_rows = [&](const TensorView& view, std::int64_t size) {
    rows.assign(static_cast<std::size_t>(layout.padded_block_size), nullptr);
    const std::int64_t first_pos = layout.block_at(slot) * layout.block_size;
    const std::int64_t end_pos = std::min(first_pos + layout.block_size, head_.rows.end_pos());
    for (std::int64_t pos = first_pos; pos < end_pos; ++pos) {
      rows[static_cast<std::size_t>(pos - first_pos)] =
          row_address(view, params_.dtype, head_.rows.key_row(pos), head_.key_head);
    }
    return RowPointers{rows.data(), layout.padded_block_size, size, params_.dtype};
  };
  kernels_.pack_rows(block_rows(params_.v, params_.v_size), sizes_.v_words,
                     values_.data() + first_key * sizes_.v_words);
  const RowPointers keys = block_rows(params_.k, params_.qk_size);
  kernels_.pack_rows(keys, sizes_.qk_words, keys_.data() + first_key * sizes_.qk_words);
  Word* transposed = keys_transposed_.data() + kernels_.words(first_key);
  kernels_.pack_transposed(keys, transposed_stride_, transposed);
  for (std::int64_t i = params_.qk_size; i < sizes_.qk_panels * kLanes; ++i) {
    std::fill_n(transposed + i * transposed_stride_, kernels_.words(keys.count), Word{0});
  }
}

void KeyOperands::fill(std::int64_t first_key, BackwardStep& step) const {
  step.keys = keys_.data() + first_key * sizes_.qk_words;
  step.values = values_.data() + first_key * sizes_.v_words;
  step.keys_transposed = keys_transposed_.data() + kernels_.words(first_key);
  step.keys_transposed_stride = transposed_stride_;
}

void QueryOperands::start(const BackwardParams& params, const TileKernels& kernels,
                          const BackwardSizes& sizes, const SequenceRows& sequence,
                          std::int64_t head_idx, std::int64_t begin_pos, std::int64_t end_pos) {
  thread_local std::vector<const void*> rows;
  const ForwardParams& forward = params.forward;
  first_token_ = sequence.q_begin + begin_pos - sequence.first_query_pos();
  count_ = end_pos - begin_pos;
  head_idx_ = head_idx;
  num_rows_ = round_up(count_, kLanes);
  const auto tile_rows = [&](const TensorView& view, std::int64_t size) {
    rows.assign(static_cast<std::size_t>(num_rows_), nullptr);
    for (std::int64_t i = 0; i < count_; ++i) {
      rows[static_cast<std::size_t>(i)] =
          row_address(view, forward.dtype, first_token_ + i, head_idx);
    }
    return RowPointers{rows.data(), num_rows_, size, forward.dtype};
  };
  const std::int64_t panel_stride = kernels.words(num_rows_) * kLanes;
  const RowPointers queries = tile_rows(forward.q, forward.qk_size);
  kernels.pack_panels_of_rows(queries, queries_.grow(num_rows_ * sizes.qk_words));
  kernels.pack_panels_of_size(queries, panel_stride,
                              queries_by_size_.grow(sizes.qk_panels * panel_stride));
  const RowPointers d_outs = tile_rows(params.d_out, forward.v_size);
  kernels.pack_panels_of_rows(d_outs, d_outs_.grow(num_rows_ * sizes.v_words));
  kernels.pack_panels_of_size(d_outs, panel_stride,
                              d_outs_by_size_.grow(sizes.v_panels * panel_stride));
  load_statistics(params, kernels);
  const std::int64_t d_queries_size = sizes.qk_panels * kLanes * num_rows_;
  std::fill_n(d_queries_.grow(d_queries_size), d_queries_size, 0.0f);
}

void QueryOperands::load_statistics(const BackwardParams& params, const TileKernels& kernels) {
  const ForwardParams& forward = params.forward;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  float* lse_log2 = lse_log2_.grow(num_rows_);
  float* delta = delta_.grow(num_rows_);
  std::fill_n(lse_log2, num_rows_, kInfinity);  // weights of padding are exp2(-inf)
  std::fill_n(delta, num_rows_, 0.0f);
  for (std::int64_t i = 0; i < count_; ++i) {
    const std::int64_t token = first_token_ + i;
    const float lse = forward.lse[token * forward.num_heads + head_idx_];
    if (lse == -kInfinity) continue;
    lse_log2[i] = lse * static_cast<float>(std::numbers::log2e);
    delta[i] = kernels.dot_rows(row_address(params.d_out, forward.dtype, token, head_idx_),
                                row_address(forward.out, forward.dtype, token, head_idx_),
                                forward.v_size, forward.dtype);
  }
}

void QueryOperands::fill(BackwardStep& step) const {
  step.num_rows = num_rows_;
  step.queries = queries_.data();
  step.d_outs = d_outs_.data();
  step.queries_by_size = queries_by_size_.data();
  step.d_outs_by_size = d_outs_by_size_.data();
  step.lse_log2 = lse_log2_.data();
  step.delta = delta_.data();
  step.d_queries_transposed = d_queries_.data();
}

void QueryOperands::finish(const BackwardParams& params, const TileKernels& kernels) const {
  const ForwardParams& forward = params.forward;
  if (params.d_q.data == nullptr) return;
  thread_local std::vector<float> row;
  row.resize(static_cast<std::size_t>(forward.qk_size));
  for (std::int64_t i = 0; i < count_; ++i) {
    for (std::int64_t j = 0; j < forward.qk_size; ++j) {
      row[static_cast<std::size_t>(j)] = d_queries_.data()[j * num_rows_ + i];
    }
    kernels.store_row(row.data(), static_cast<float>(forward.scale), forward.qk_size, forward.dtype,
                      row_address(params.d_q, forward.dtype, first_token_ + i, head_idx_));
  }
}

}  // namespace loza::cpu
