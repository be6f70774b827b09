#include "loza/engine/kv_pages.h"

#include <algorithm>

#include "loza/base/check.h"

namespace loza {
namespace {

constexpr std::int64_t kMaxPageLen = 64;

}  // namespace

std::int64_t page_len_for(std::int64_t block_size) {
  LOZA_CHECK(block_size >= 1, block_size);
  std::int64_t page_len = std::min(block_size, kMaxPageLen);
  while (block_size % page_len != 0) --page_len;
  return page_len;
}

KvPages::KvPages(const KvRow& row, std::int64_t block_size, std::int64_t num_modules,
                 std::int64_t max_sequences, std::int64_t num_tokens, bool poison,
                 const KvAllocator& allocate)
    : row_(row),
      page_len_(page_len_for(block_size)),
      num_modules_(num_modules),
      poison_(poison),
      pool_(num_pages_for(num_tokens)),
      memory_(pool_.num_pages() * page_bytes(), allocate),
      sequences_(static_cast<std::size_t>(max_sequences)) {
  if (poison_) memory_.poison(0, memory_.size_bytes());
}

bool KvPages::can_open(std::int64_t max_len) const {
  return num_promised_ + num_pages_for(max_len) <= pool_.num_pages();
}

void KvPages::open(std::size_t sequence, std::int64_t max_len) {
  LOZA_CHECK(can_open(max_len), max_len, num_promised_, pool_.num_pages());
  LOZA_CHECK(sequences_[sequence].promised == 0, sequence);
  sequences_[sequence].promised = num_pages_for(max_len);
  num_promised_ += sequences_[sequence].promised;
}

void KvPages::append(std::size_t sequence, std::int64_t length) {
  Sequence& holder = sequences_[sequence];
  const std::int64_t needed = num_pages_for(length);
  LOZA_CHECK(needed <= holder.promised, length, holder.promised, page_len_);
  while (static_cast<std::int64_t>(holder.pages.size()) < needed) {
    const auto page = pool_.allocate();
    LOZA_CHECK(page.has_value(), pool_.num_pages(), num_promised_);
    holder.pages.push_back(*page);
  }
}

void KvPages::close(std::size_t sequence) {
  Sequence& holder = sequences_[sequence];
  // Last page first, so that the next sequence gets them in rising order.
  for (auto page = holder.pages.rbegin(); page != holder.pages.rend(); ++page) {
    pool_.release(*page);
    if (poison_) poison_page(*page);
  }
  num_promised_ -= holder.promised;
  holder = {};
}

std::int64_t KvPages::fill_table(const std::vector<std::int32_t>& batch,
                                 std::vector<std::int32_t>& table) const {
  std::size_t stride = 1;
  for (const std::int32_t sequence : batch) {
    stride = std::max(stride, pages_of(static_cast<std::size_t>(sequence)).size());
  }
  table.assign(batch.size() * stride, -1);
  for (std::size_t b = 0; b < batch.size(); ++b) {
    const auto& pages = pages_of(static_cast<std::size_t>(batch[b]));
    std::copy(pages.begin(), pages.end(), table.begin() + static_cast<std::ptrdiff_t>(b * stride));
  }
  return static_cast<std::int64_t>(stride);
}

PagedKvView KvPages::view(std::int64_t module_idx) const {
  const std::int64_t stretch = pool_.num_pages() * page_len_ * row_.size_bytes();
  PagedKvView view = view_of(row_, page_len_, memory_.data() + module_idx * stretch);
  view.num_pages = pool_.num_pages();
  return view;
}

void KvPages::poison_page(std::int32_t page) {
  const std::int64_t bytes = page_len_ * row_.size_bytes();
  for (std::int64_t module_idx = 0; module_idx < num_modules_; ++module_idx) {
    memory_.poison((module_idx * pool_.num_pages() + page) * bytes, bytes);
  }
}

}  // namespace loza
