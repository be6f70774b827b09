#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "loza/attention/params.h"
#include "loza/engine/kv_row.h"
#include "loza/engine/page_pool.h"

namespace loza {

// Tokens of a page: the largest divisor of the block size that is at most 64.
std::int64_t page_len_for(std::int64_t block_size);

// Keys and values of modules that see everything, in pages that a sequence takes as it grows.
// All modules of the group share page numbers: page i of a sequence is page i in each module's
// own stretch of memory, so one table serves them all. Not thread-safe.
class KvPages {
 public:
  // Room for num_tokens tokens (rounded up to pages) of max_sequences sequences at a time.
  // poison: memory that holds no token is all ones bits, a NaN.
  KvPages(const KvRow& row, std::int64_t block_size, std::int64_t num_modules,
          std::int64_t max_sequences, std::int64_t num_tokens, bool poison,
          const KvAllocator& allocate = allocate_system_memory);

  // open() sets aside the pages of max_len tokens, so that append() never fails within it.
  bool can_open(std::int64_t max_len) const;
  void open(std::size_t sequence, std::int64_t max_len);
  // Takes pages until the sequence has room for `length` tokens.
  void append(std::size_t sequence, std::int64_t length);
  void close(std::size_t sequence);

  // Writes the page table of a batch into `table` [B, stride] and returns the stride.
  std::int64_t fill_table(const std::vector<std::int32_t>& batch,
                          std::vector<std::int32_t>& table) const;
  // The view of the group's module i, but for page_table, table_stride and lengths.
  PagedKvView view(std::int64_t module_idx) const;

  std::int64_t page_len() const { return page_len_; }
  std::int64_t page_bytes() const { return num_modules_ * page_len_ * row_.size_bytes(); }
  const PagePool& pool() const { return pool_; }
  std::int64_t num_promised() const { return num_promised_; }
  const std::vector<std::int32_t>& pages_of(std::size_t sequence) const {
    return sequences_[sequence].pages;
  }
  std::int64_t used_bytes() const { return pool_.num_used() * page_bytes(); }

 private:
  struct Sequence {
    std::vector<std::int32_t> pages;
    std::int64_t promised = 0;  // pages that it may still grow to, those it has included
  };
  std::int64_t num_pages_for(std::int64_t num_tokens) const {
    return (num_tokens + page_len_ - 1) / page_len_;
  }
  void poison_page(std::int32_t page);

  KvRow row_;
  std::int64_t page_len_, num_modules_;
  bool poison_;
  PagePool pool_;
  KvMemory memory_;  // [modules, pages, page_len, row]
  std::vector<Sequence> sequences_;
  std::int64_t num_promised_ = 0;
};

}  // namespace loza
