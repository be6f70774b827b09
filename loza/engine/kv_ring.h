#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "loza/attention/params.h"
#include "loza/engine/kv_row.h"
#include "loza/engine/page_pool.h"

namespace loza {

// Keys and values of modules that stream: for each sequence the sink's pages and a ring of
// recent ones, of one size for ever, however long the sequence grows.
// The ring holds what up to kMaxNewTokens tokens that are queried together still see. A longer
// chunk of a prompt sees more than the ring keeps: whoever runs it reads the old rows before
// it writes new ones, and writes only the last that fit.
class KvRing {
 public:
  static constexpr std::int64_t kMaxNewTokens = 8;

  // REQUIRES: pattern is not full.
  KvRing(const KvRow& row, const BlockPattern& pattern, std::int64_t num_modules,
         std::int64_t max_sequences, bool poison,
         const KvAllocator& allocate = allocate_system_memory);

  // Forgets what the sequence held.
  void close(std::size_t sequence);

  // As in KvPages.
  std::int64_t fill_table(const std::vector<std::int32_t>& batch,
                          std::vector<std::int32_t>& table) const;
  PagedKvView view(std::int64_t module_idx) const;

  std::int64_t page_len() const { return page_len_; }
  std::int64_t num_pages_per_sequence() const { return sink_pages_ + ring_pages_; }
  // Of all modules of the group.
  std::int64_t sequence_bytes() const {
    return num_modules_ * num_pages_per_sequence() * page_len_ * row_.size_bytes();
  }

 private:
  KvRow row_;
  std::int64_t page_len_, num_modules_, max_sequences_;
  bool poison_;
  std::int64_t sink_pages_, ring_pages_;
  KvMemory memory_;  // [modules, sequences, sink_pages + ring_pages, page_len, row]
};

}  // namespace loza
