#include "loza/attention/cpu/query_rows.h"

#include <algorithm>
#include <limits>
#include <numbers>

namespace loza::cpu {

void QueryRows::start(const TileKernels& kernels, const RowSizes& sizes, Reading reading,
                      const std::vector<const void*>& queries,
                      const std::vector<const void*>& sink_queries) {
  kernels_ = &kernels;
  sizes_ = sizes;
  count_ = static_cast<std::int64_t>(queries.size());
  qk_words_ = kernels.words(sizes.qk_size);
  const auto pack = [&](const std::vector<const void*>& rows, Buffer<Word>& packed) {
    const RowPointers from{rows.data(), count_, sizes.qk_size, sizes.dtype};
    Word* to = packed.grow(count_ * qk_words_);
    if (reading == Reading::kRows) return kernels.pack_decode_queries(from, to);
    kernels.pack_rows(from, qk_words_, to);
  };
  pack(queries, queries_);
  has_sink_queries_ = !sink_queries.empty();
  if (has_sink_queries_) pack(sink_queries, sink_queries_);
  std::fill_n(max_.grow(count_), count_, std::numeric_limits<float>::lowest());
  std::fill_n(sum_.grow(count_ * kLanes), count_ * kLanes, 0.0f);
  const std::int64_t out_size = count_ * sizes.v_panels() * kLanes;
  std::fill_n(out_.grow(out_size), out_size, 0.0f);
}

ForwardStep QueryRows::forward_step(const PackedStep& step, Scorer scorer) const {
  ForwardStep forward;
  forward.num_rows = count_;
  forward.qk_words = qk_words_;
  forward.v_panels = sizes_.v_panels();
  forward.scale_log2 = static_cast<float>(sizes_.scale * std::numbers::log2e);
  forward.queries = scoring_queries(scorer);
  forward.keys = step.keys;
  forward.values = step.values;
  forward.value_panel_stride = step.value_panel_stride;
  forward.max = max_.data();
  forward.sum = sum_.data();
  forward.out = out_.data();
  return forward;
}

void QueryRows::meet(const PackedStep& step, const std::vector<ColumnRange>& visible,
                     Scorer scorer) {
  if (step.value_rows != nullptr) return meet_row_by_row(step, visible, scorer);
  ForwardStep forward = forward_step(step, scorer);
  forward.visible = visible.data();
  kernels_->forward_step(forward);
}

void QueryRows::meet_row_by_row(const PackedStep& step, const std::vector<ColumnRange>& visible,
                                Scorer scorer) {
  const std::int64_t padded_keys = round_up(step.num_keys, kLanes);
  const std::int64_t panel_stride = kernels_->words(padded_keys) * kLanes;
  for (std::int64_t r = 0; r < count_; ++r) {
    const ColumnRange& range = visible[static_cast<std::size_t>(r)];
    if (range.begin >= range.end) continue;
    std::vector<const void*> seen(static_cast<std::size_t>(padded_keys), nullptr);
    std::copy(step.value_rows + range.begin, step.value_rows + range.end,
              seen.begin() + range.begin);
    Word* values = seen_values_.grow(sizes_.v_panels() * panel_stride);
    kernels_->pack_panels_of_size({seen.data(), padded_keys, sizes_.v_size, sizes_.dtype},
                                  panel_stride, values);
    ForwardStep forward = forward_step(step, scorer);
    forward.num_rows = 1;
    forward.queries += r * qk_words_;
    forward.visible = &range;
    forward.values = values;
    forward.value_panel_stride = panel_stride;
    forward.max += r;
    forward.sum += r * kLanes;
    forward.out += r * sizes_.v_panels() * kLanes;
    kernels_->forward_step(forward);
  }
}

void QueryRows::read(const RowStep& step, std::int64_t first_row, std::int64_t num_rows,
                     Scorer scorer) {
  DecodeStep decode;
  decode.dtype = sizes_.dtype;
  decode.qk_words = qk_words_;
  decode.v_panels = sizes_.v_panels();
  decode.scale_log2 = static_cast<float>(sizes_.scale * std::numbers::log2e);
  decode.queries_stride = count_;
  decode.num_keys = step.num_keys;
  decode.keys = step.keys;
  decode.values = step.values;
  decode.room = widened_keys_.grow(kStepKeys * qk_words_);
  if (step.coming != nullptr) {
    decode.coming = step.coming->data();
    decode.num_coming = static_cast<std::int64_t>(step.coming->size());
  }
  for (std::int64_t row = first_row; row < first_row + num_rows; row += kDecodeRows) {
    decode.num_rows = std::min(kDecodeRows, first_row + num_rows - row);
    decode.queries = scoring_queries(scorer) + row * kLanes;
    decode.max = max_.data() + row;
    decode.sum = sum_.data() + row * kLanes;
    decode.out = out_.data() + row * sizes_.v_panels() * kLanes;
    kernels_->decode_step(decode);
    decode.num_coming = 0;
  }
}

SoftmaxState QueryRows::state(std::int64_t row) const {
  float sum = 0;
  for (std::int64_t i = 0; i < kLanes; ++i) sum += sum_.data()[row * kLanes + i];
  return {max_.data()[row], sum, out_.data() + row * sizes_.v_panels() * kLanes};
}

}  // namespace loza::cpu
