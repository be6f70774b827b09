#include "loza/attention/cpu/query_rows.h"

#include <algorithm>
#include <limits>
#include <numbers>

namespace loza::cpu {

void QueryRows::start(const TileKernels& kernels, const RowSizes& sizes,
                      const std::vector<const void*>& queries,
                      const std::vector<const void*>& sink_queries) {
  kernels_ = &kernels;
  sizes_ = sizes;
  count_ = static_cast<std::int64_t>(queries.size());
  qk_words_ = kernels.words(sizes.qk_size);
  const auto pack = [&](const std::vector<const void*>& rows, Buffer<Word>& packed) {
    kernels.pack_rows({rows.data(), count_, sizes.qk_size, sizes.dtype}, qk_words_,
                      packed.grow(count_ * qk_words_));
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
  const bool by_sink_query = has_sink_queries_ && scorer == Scorer::kSinkQuery;
  forward.queries = (by_sink_query ? sink_queries_ : queries_).data();
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

SoftmaxState QueryRows::state(std::int64_t row) const {
  float sum = 0;
  for (std::int64_t i = 0; i < kLanes; ++i) sum += sum_.data()[row * kLanes + i];
  return {max_.data()[row], sum, out_.data() + row * sizes_.v_panels() * kLanes};
}

}  // namespace loza::cpu
