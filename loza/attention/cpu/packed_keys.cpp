#include "loza/attention/cpu/packed_keys.h"

#include <algorithm>
#include <cstddef>

#include "loza/attention/cpu/row_address.h"
#include "loza/attention/sequence.h"

namespace loza::cpu {

void PackedKeys::start(const ForwardParams& params, const TileKernels& kernels,
                       std::int64_t sequence_idx, std::int64_t key_head,
                       std::int64_t first_query_pos, std::int64_t end_pos) {
  params_ = &params;
  kernels_ = &kernels;
  sequence_idx_ = sequence_idx;
  key_head_ = key_head;
  layout_ = KeyLayout::of(params.pattern, first_query_pos, end_pos);
  qk_words_ = kernels.words(params.qk_size);
  const std::int64_t num_keys = layout_.num_keys();
  const std::int64_t v_panels = (params.v_size + kLanes - 1) / kLanes;
  // An odd number of cache lines between panels, so that they don't share cache sets.
  value_panel_stride_ = (kernels.words(num_keys) + 1) * kLanes;
  values_ =
      words_.grow(num_keys * qk_words_ + v_panels * value_panel_stride_) + num_keys * qk_words_;
  block_is_finite_.grow(layout_.num_blocks());
}

void PackedKeys::find_rows(const TensorView& view, std::int64_t first_pos, std::int64_t count,
                           std::vector<const void*>& rows) const {
  const SequenceRows sequence = sequence_rows(*params_, sequence_idx_);
  rows.assign(static_cast<std::size_t>(count), nullptr);
  const std::int64_t end_pos = std::min(first_pos + count, sequence.end_pos());
  for (std::int64_t pos = first_pos; pos < end_pos; ++pos) {
    rows[static_cast<std::size_t>(pos - first_pos)] =
        row_address(view, params_->dtype, sequence.key_row(pos), key_head_);
  }
}

void PackedKeys::pack_block(std::int64_t slot) {
  thread_local std::vector<const void*> rows;
  const std::int64_t first_pos = layout_.block_at(slot) * layout_.block_size;
  const std::int64_t first_key = slot * layout_.padded_block_size;
  const auto pointers = [&](const TensorView& view, std::int64_t size) {
    find_rows(view, first_pos, layout_.block_size, rows);
    rows.resize(static_cast<std::size_t>(layout_.padded_block_size), nullptr);
    return RowPointers{rows.data(), layout_.padded_block_size, size, params_->dtype};
  };
  kernels_->pack_panels_of_rows(pointers(params_->k, params_->qk_size),
                                words_.data() + first_key * qk_words_);
  block_is_finite_.data()[slot] =
      kernels_->pack_panels_of_size(pointers(params_->v, params_->v_size), value_panel_stride_,
                                    values_ + kernels_->words(first_key) * kLanes);
}

PackedStep PackedKeys::step(const KeyStep& step, std::vector<const void*>& value_rows) const {
  const std::int64_t first_key = layout_.packed_key(step.first_pos);
  const bool* is_finite = block_is_finite_.data();
  const std::int64_t first_slot = first_key / layout_.padded_block_size;
  const std::int64_t last_slot = (first_key + step.num_keys - 1) / layout_.padded_block_size;
  PackedStep packed;
  packed.keys = words_.data() + first_key * qk_words_;
  packed.values = values_ + kernels_->words(first_key) * kLanes;
  packed.value_panel_stride = value_panel_stride_;
  packed.num_keys = step.num_keys;
  if (!std::all_of(is_finite + first_slot, is_finite + last_slot + 1, [](bool f) { return f; })) {
    find_rows(params_->v, step.first_pos, step.num_keys, value_rows);
    packed.value_rows = value_rows.data();
  }
  return packed;
}

}  // namespace loza::cpu
