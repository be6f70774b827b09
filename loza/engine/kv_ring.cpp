#include "loza/engine/kv_ring.h"

#include "loza/base/check.h"
#include "loza/engine/kv_pages.h"

namespace loza {

KvRing::KvRing(const KvRow& row, const BlockPattern& pattern, std::int64_t num_modules,
               std::int64_t max_sequences, bool poison, const KvAllocator& allocate)
    : row_(row),
      page_len_(page_len_for(pattern.block_size)),
      num_modules_(num_modules),
      max_sequences_(max_sequences),
      poison_(poison),
      sink_pages_(pattern.sink_blocks * pattern.block_size / page_len_),
      ring_pages_(num_ring_blocks(pattern, kMaxNewTokens) * pattern.block_size / page_len_),
      memory_(max_sequences * sequence_bytes(), allocate) {
  LOZA_CHECK(!pattern.is_full());
  if (poison_) memory_.poison(0, memory_.size_bytes());
}

void KvRing::close(std::size_t sequence) {
  if (!poison_) return;
  const std::int64_t bytes = num_pages_per_sequence() * page_len_ * row_.size_bytes();
  for (std::int64_t module_idx = 0; module_idx < num_modules_; ++module_idx) {
    const std::int64_t stretch = module_idx * max_sequences_ + static_cast<std::int64_t>(sequence);
    memory_.poison(stretch * bytes, bytes);
  }
}

std::int64_t KvRing::fill_table(const std::vector<std::int32_t>& batch,
                                std::vector<std::int32_t>& table) const {
  const std::int64_t stride = num_pages_per_sequence();
  table.clear();
  for (const std::int32_t sequence : batch) {
    for (std::int64_t slot = 0; slot < stride; ++slot) {
      table.push_back(static_cast<std::int32_t>(sequence * stride + slot));
    }
  }
  return stride;
}

PagedKvView KvRing::view(std::int64_t module_idx) const {
  const std::int64_t stretch =
      max_sequences_ * num_pages_per_sequence() * page_len_ * row_.size_bytes();
  PagedKvView view = view_of(row_, page_len_, memory_.data() + module_idx * stretch);
  view.num_pages = max_sequences_ * num_pages_per_sequence();
  view.sink_pages = sink_pages_;
  view.ring_pages = ring_pages_;
  return view;
}

}  // namespace loza
