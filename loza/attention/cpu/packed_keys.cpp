#include "loza/attention/cpu/packed_keys.h"

#include <algorithm>
#include <cstddef>

#include "loza/attention/cpu/row_address.h"
#include "loza/attention/sequence.h"
#include "loza/base/parallel_for.h"

namespace loza::cpu {

PackedKeys::PackedKeys(const ForwardParams& params, const TileKernels& kernels)
    : params_(params), kernels_(kernels), qk_words_(kernels.words(params.qk_size)) {
  lay_out();
  words_.grow(num_words_);
  block_is_finite_.grow(num_blocks_);
  std::vector<std::pair<const Head*, std::int64_t>> blocks;
  blocks.reserve(static_cast<std::size_t>(num_blocks_));
  for (const Head& head : heads_) {
    for (std::int64_t slot = 0; slot < head.layout.num_blocks(); ++slot) {
      blocks.emplace_back(&head, slot);
    }
  }
  parallel_for(num_blocks_, [&](std::int64_t i) {
    const auto& [head, slot] = blocks[static_cast<std::size_t>(i)];
    pack_block(*head, slot);
  });
}

void PackedKeys::lay_out() {
  const std::int64_t v_panels = (params_.v_size + kLanes - 1) / kLanes;
  for (std::int64_t b = 0; b < params_.num_sequences; ++b) {
    const SequenceRows rows = sequence_rows(params_, b);
    const bool has_queries = rows.q_begin < rows.q_end && rows.end_pos() > 0;
    for (std::int64_t g = 0; g < params_.num_key_heads; ++g) {
      Head head{b, g, {}, 0, 0, 0, 0};
      if (has_queries) {
        const std::int64_t first_pos = std::max<std::int64_t>(0, rows.first_query_pos());
        head.layout = KeyLayout::of(params_.pattern, first_pos, rows.end_pos());
      }
      const std::int64_t num_keys = head.layout.num_keys();
      head.keys = num_words_;
      head.values = head.keys + num_keys * qk_words_;
      // An odd number of cache lines between panels, so that they don't share cache sets.
      head.value_panel_stride = (kernels_.words(num_keys) + 1) * kLanes;
      head.first_block = num_blocks_;
      num_words_ = head.values + v_panels * head.value_panel_stride;
      num_blocks_ += head.layout.num_blocks();
      heads_.push_back(head);
    }
  }
}

void PackedKeys::find_rows(const Head& head, const TensorView& view, std::int64_t first_pos,
                           std::int64_t count, std::vector<const void*>& rows) const {
  const SequenceRows sequence = sequence_rows(params_, head.sequence_idx);
  rows.assign(static_cast<std::size_t>(count), nullptr);
  const std::int64_t end_pos = std::min(first_pos + count, sequence.end_pos());
  for (std::int64_t pos = first_pos; pos < end_pos; ++pos) {
    rows[static_cast<std::size_t>(pos - first_pos)] =
        row_address(view, params_.dtype, sequence.key_row(pos), head.key_head);
  }
}

void PackedKeys::pack_block(const Head& head, std::int64_t slot) {
  thread_local std::vector<const void*> rows;
  const KeyLayout& layout = head.layout;
  const std::int64_t first_pos = layout.block_at(slot) * layout.block_size;
  const std::int64_t first_key = slot * layout.padded_block_size;
  const auto pointers = [&](const TensorView& view, std::int64_t size) {
    find_rows(head, view, first_pos, layout.block_size, rows);
    rows.resize(static_cast<std::size_t>(layout.padded_block_size), nullptr);
    return RowPointers{rows.data(), layout.padded_block_size, size, params_.dtype};
  };
  kernels_.pack_panels_of_rows(pointers(params_.k, params_.qk_size),
                               words_.data() + head.keys + first_key * qk_words_);
  block_is_finite_.data()[head.first_block + slot] = kernels_.pack_panels_of_size(
      pointers(params_.v, params_.v_size), head.value_panel_stride,
      words_.data() + head.values + kernels_.words(first_key) * kLanes);
}

PackedStep PackedKeys::step(std::int64_t sequence_idx, std::int64_t key_head, const KeyStep& step,
                            std::vector<const void*>& value_rows) const {
  const Head& head =
      heads_[static_cast<std::size_t>(sequence_idx * params_.num_key_heads + key_head)];
  const std::int64_t first_key = head.layout.packed_key(step.first_pos);
  const bool* is_finite = block_is_finite_.data() + head.first_block;
  const std::int64_t first_slot = first_key / head.layout.padded_block_size;
  const std::int64_t last_slot = (first_key + step.num_keys - 1) / head.layout.padded_block_size;
  PackedStep packed;
  packed.keys = words_.data() + head.keys + first_key * qk_words_;
  packed.values = words_.data() + head.values + kernels_.words(first_key) * kLanes;
  packed.value_panel_stride = head.value_panel_stride;
  packed.num_keys = step.num_keys;
  if (!std::all_of(is_finite + first_slot, is_finite + last_slot + 1, [](bool f) { return f; })) {
    find_rows(head, params_.v, step.first_pos, step.num_keys, value_rows);
    packed.value_rows = value_rows.data();
  }
  return packed;
}

}  // namespace loza::cpu
