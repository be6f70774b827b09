#pragma once

#include <cstdint>
#include <vector>

#include "loza/attention/params.h"
#include "loza/engine/kv_pages.h"
#include "loza/engine/kv_ring.h"
#include "loza/engine/kv_row.h"
#include "loza/engine/page_pool.h"
#include "loza/model/config.h"

namespace loza {

// Bytes of KV memory by the kind of module that uses them.
struct KvBytes {
  std::int64_t full = 0, streaming = 0;

  std::int64_t total() const { return full + streaming; }
  friend constexpr bool operator==(const KvBytes&, const KvBytes&) = default;
};

// The row that a model's modules cache: heads for GQA, the latent for MLA.
KvRow kv_row_of(const ModelConfig& config, DType dtype);

// What one sequence of `length` tokens takes, to the byte: whole pages in full modules, rings
// in streaming ones. patterns [modules].
KvBytes kv_bytes_at(const KvRow& row, const std::vector<BlockPattern>& patterns,
                    std::int64_t length);

struct KvLimits {
  std::int64_t max_sequences = 1;  // open at a time
  std::int64_t num_tokens = 0;     // in full modules, of all open sequences together
  std::int64_t budget_bytes = 0;   // 0: what the system says is available
  bool poison = false;             // memory that holds no token is NaN: for tests
  // Where the memory comes from; budget_bytes 0 then means what it gives.
  KvAllocator allocate = {};  // empty: the system's
};

// Who a batch is: one open sequence of a KvCache.
using KvSequence = std::int32_t;

// Owns the keys and values of every attention module for the sequences that are running:
// pages for full modules, rings for streaming ones (KvPages, KvRing). A forward pass sees them
// as PagedKvView; nothing is ever copied.
//
//   KvCache cache(kv_row_of(config, DType::kBF16), plan.patterns, {1, 4096});
//   const KvSequence sequence = cache.open(4096);
//   cache.append(sequence, prompt_len);     // room for new tokens
//   batch.kv = &cache.views({sequence});    // the forward pass writes their rows
//   cache.close(sequence);
//
// Not thread-safe: one thread owns it.
class KvCache {
 public:
  // Far beyond any machine, and far from overflow when multiplied by a row's bytes.
  static constexpr std::int64_t kMaxSequences = std::int64_t{1} << 16;
  static constexpr std::int64_t kMaxTokens = std::int64_t{1} << 31;

  // patterns [modules]. REQUIRES: limits within the above.
  // Throws Error(kDoesNotFit), naming what is needed and available.
  KvCache(const KvRow& row, const std::vector<BlockPattern>& patterns, const KvLimits& limits);
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  // A sequence that may grow to max_len tokens. Its pages are promised now and taken as it
  // grows, so that append() can't fail. REQUIRES: can_open(max_len).
  bool can_open(std::int64_t max_len) const;
  KvSequence open(std::int64_t max_len);
  // Whether can_open(max_len) holds when no sequence is open.
  bool could_ever_open(std::int64_t max_len) const;

  // Makes room for num_new more tokens. REQUIRES: length() + num_new <= the open's max_len.
  void append(KvSequence sequence, std::int64_t num_new);
  void close(KvSequence sequence);

  // Tokens, those of the last append() included.
  std::int64_t length(KvSequence sequence) const;
  std::int64_t num_open() const;

  // One view a module [modules] over the sequences of a batch, with their lengths. Valid until
  // the next call of views(), append() or close().
  const std::vector<PagedKvView>& views(const std::vector<KvSequence>& batch);

  // What open sequences use now, and what the whole cache may come to use.
  KvBytes used_bytes() const;
  KvBytes capacity_bytes() const;
  std::int64_t num_modules() const { return static_cast<std::int64_t>(homes_.size()); }

  // The groups of modules that share a table, to look at.
  const std::vector<KvPages>& page_groups() const { return page_groups_; }
  const std::vector<KvRing>& ring_groups() const { return ring_groups_; }

 private:
  // Where a module's memory is.
  struct Home {
    bool is_ring = false;
    std::size_t group_idx = 0;
    std::int64_t module_idx = 0;  // within the group
  };
  struct Slot {
    bool is_open = false;
    std::int64_t length = 0, max_len = 0;
  };
  struct Table {
    std::vector<std::int32_t> pages;  // [B, stride]
    std::int64_t stride = 0;
  };

  std::vector<Home> homes_;  // [modules]
  std::vector<KvPages> page_groups_;
  std::vector<KvRing> ring_groups_;
  std::vector<Slot> slots_;  // [max_sequences]

  // What views() hands out.
  std::vector<PagedKvView> views_;  // [modules]
  std::vector<Table> page_tables_, ring_tables_;
  std::vector<std::int64_t> lengths_;  // [B]
};

// Bytes of memory that the system would give to a program now.
std::int64_t available_memory_bytes();

}  // namespace loza
