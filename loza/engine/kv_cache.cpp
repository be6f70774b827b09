#include "loza/engine/kv_cache.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "loza/base/check.h"
#include "loza/base/error.h"

namespace loza {
namespace {

std::size_t index(KvSequence sequence) { return static_cast<std::size_t>(sequence); }

// Modules of one pattern share page numbers.
struct Group {
  BlockPattern pattern;
  std::int64_t num_modules = 0;
};

std::vector<Group> group_by_pattern(const std::vector<BlockPattern>& patterns) {
  std::vector<Group> groups;
  for (const BlockPattern& pattern : patterns) {
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const Group& g) { return g.pattern == pattern; });
    if (group == groups.end()) group = groups.insert(groups.end(), Group{pattern, 0});
    ++group->num_modules;
  }
  return groups;
}

std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

std::int64_t row_bytes_of(const Group& group, std::int64_t num_tokens, const KvRow& row) {
  return group.num_modules * num_tokens * row.size_bytes();
}

// Tokens that a module of the group keeps of a sequence, whole pages.
std::int64_t kept_tokens(const BlockPattern& pattern, std::int64_t length) {
  if (pattern.is_full()) return round_up(length, page_len_for(pattern.block_size));
  return (pattern.sink_blocks + num_ring_blocks(pattern, KvRing::kMaxNewTokens)) *
         pattern.block_size;
}

KvBytes bytes_needed(const KvRow& row, const std::vector<Group>& groups, const KvLimits& limits) {
  KvBytes bytes;
  for (const Group& group : groups) {
    const std::int64_t kept = kept_tokens(group.pattern, limits.num_tokens);
    if (group.pattern.is_full()) {
      bytes.full += row_bytes_of(group, kept, row);
    } else {
      bytes.streaming += limits.max_sequences * row_bytes_of(group, kept, row);
    }
  }
  return bytes;
}

void check_budget(const KvBytes& needed, const KvLimits& limits) {
  if (limits.allocate && limits.budget_bytes == 0) return;
  const std::int64_t available =
      limits.budget_bytes > 0 ? limits.budget_bytes : available_memory_bytes();
  if (needed.total() <= available) return;
  throw Error(
      ExitCode::kDoesNotFit,
      {"KV cache",
       fmt::format("at most {} bytes ({})", available,
                   limits.budget_bytes > 0 ? "the budget" : "memory that is available"),
       fmt::format("{} bytes for {} tokens in full modules and {} sequences in streaming ones",
                   needed.total(), limits.num_tokens, limits.max_sequences),
       "take a shorter length, fewer sequences or a larger budget"});
}

}  // namespace

KvRow kv_row_of(const ModelConfig& config, DType dtype) {
  return config.attention == ModelConfig::Attention::kMla
             ? KvRow::latent(dtype, config.kv_lora_rank, config.rope_size)
             : KvRow::heads(dtype, config.num_key_heads, config.head_size, config.head_size);
}

KvBytes kv_bytes_at(const KvRow& row, const std::vector<BlockPattern>& patterns,
                    std::int64_t length) {
  return bytes_needed(row, group_by_pattern(patterns), {1, length});
}

std::int64_t available_memory_bytes() {
  // What the kernel would free of its caches counts, unlike in sysconf's free pages.
  std::ifstream meminfo("/proc/meminfo");
  std::string key, unit;
  std::int64_t kilobytes = 0;
  while (meminfo >> key >> kilobytes >> unit) {
    if (key == "MemAvailable:") return kilobytes * 1024;
  }
  return ::sysconf(_SC_AVPHYS_PAGES) * ::sysconf(_SC_PAGESIZE);
}

KvCache::KvCache(const KvRow& row, const std::vector<BlockPattern>& patterns,
                 const KvLimits& limits)
    : slots_(static_cast<std::size_t>(limits.max_sequences)) {
  LOZA_CHECK(limits.max_sequences >= 1 && limits.max_sequences <= kMaxSequences &&
                 limits.num_tokens >= 0 && limits.num_tokens <= kMaxTokens,
             limits.max_sequences, limits.num_tokens);
  LOZA_CHECK(!limits.poison || !limits.allocate);  // poison is written by the processor
  const std::vector<Group> groups = group_by_pattern(patterns);
  check_budget(bytes_needed(row, groups, limits), limits);
  const KvAllocator allocate = limits.allocate ? limits.allocate : allocate_system_memory;
  for (const Group& group : groups) {
    const bool is_ring = !group.pattern.is_full();
    const std::size_t group_idx = is_ring ? ring_groups_.size() : page_groups_.size();
    if (is_ring) {
      ring_groups_.emplace_back(row, group.pattern, group.num_modules, limits.max_sequences,
                                limits.poison, allocate);
    } else {
      page_groups_.emplace_back(row, group.pattern.block_size, group.num_modules,
                                limits.max_sequences, limits.num_tokens, limits.poison, allocate);
    }
    std::int64_t module_idx = 0;
    homes_.resize(patterns.size());
    for (std::size_t i = 0; i < patterns.size(); ++i) {
      if (patterns[i] == group.pattern) homes_[i] = {is_ring, group_idx, module_idx++};
    }
  }
  page_tables_.resize(page_groups_.size());
  ring_tables_.resize(ring_groups_.size());
}

bool KvCache::can_open(std::int64_t max_len) const {
  const bool has_slot =
      std::any_of(slots_.begin(), slots_.end(), [](const Slot& slot) { return !slot.is_open; });
  return has_slot && std::all_of(page_groups_.begin(), page_groups_.end(),
                                 [&](const KvPages& pages) { return pages.can_open(max_len); });
}

bool KvCache::could_ever_open(std::int64_t max_len) const {
  return std::all_of(page_groups_.begin(), page_groups_.end(), [&](const KvPages& pages) {
    return max_len <= pages.pool().num_pages() * pages.page_len();
  });
}

KvSequence KvCache::open(std::int64_t max_len) {
  LOZA_CHECK(max_len >= 0 && can_open(max_len), max_len);
  const auto slot = std::find_if(slots_.begin(), slots_.end(),
                                 [](const Slot& candidate) { return !candidate.is_open; });
  *slot = {true, 0, max_len};
  const auto sequence = static_cast<std::size_t>(slot - slots_.begin());
  for (KvPages& pages : page_groups_) pages.open(sequence, max_len);
  return static_cast<KvSequence>(sequence);
}

void KvCache::append(KvSequence sequence, std::int64_t num_new) {
  Slot& slot = slots_[index(sequence)];
  LOZA_CHECK(slot.is_open && num_new >= 0 && slot.length + num_new <= slot.max_len, sequence,
             slot.length, num_new, slot.max_len);
  slot.length += num_new;
  for (KvPages& pages : page_groups_) pages.append(index(sequence), slot.length);
}

void KvCache::close(KvSequence sequence) {
  LOZA_CHECK(slots_[index(sequence)].is_open, sequence);
  slots_[index(sequence)] = {};
  for (KvPages& pages : page_groups_) pages.close(index(sequence));
  for (KvRing& ring : ring_groups_) ring.close(index(sequence));
}

std::int64_t KvCache::length(KvSequence sequence) const { return slots_[index(sequence)].length; }

std::int64_t KvCache::num_open() const {
  return std::count_if(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.is_open; });
}

const std::vector<PagedKvView>& KvCache::views(const std::vector<KvSequence>& batch) {
  lengths_.clear();
  for (const KvSequence sequence : batch) lengths_.push_back(length(sequence));
  for (std::size_t i = 0; i < page_groups_.size(); ++i) {
    page_tables_[i].stride = page_groups_[i].fill_table(batch, page_tables_[i].pages);
  }
  for (std::size_t i = 0; i < ring_groups_.size(); ++i) {
    ring_tables_[i].stride = ring_groups_[i].fill_table(batch, ring_tables_[i].pages);
  }
  views_.clear();
  for (const Home& home : homes_) {
    const Table& table = (home.is_ring ? ring_tables_ : page_tables_)[home.group_idx];
    PagedKvView view = home.is_ring ? ring_groups_[home.group_idx].view(home.module_idx)
                                    : page_groups_[home.group_idx].view(home.module_idx);
    view.page_table = table.pages.data();
    view.table_stride = table.stride;
    view.lengths = lengths_.data();
    views_.push_back(view);
  }
  return views_;
}

KvBytes KvCache::used_bytes() const {
  KvBytes bytes;
  for (const KvPages& pages : page_groups_) bytes.full += pages.used_bytes();
  for (const KvRing& ring : ring_groups_) bytes.streaming += num_open() * ring.sequence_bytes();
  return bytes;
}

KvBytes KvCache::capacity_bytes() const {
  KvBytes bytes;
  for (const KvPages& pages : page_groups_) {
    bytes.full += pages.pool().num_pages() * pages.page_bytes();
  }
  for (const KvRing& ring : ring_groups_) {
    bytes.streaming += static_cast<std::int64_t>(slots_.size()) * ring.sequence_bytes();
  }
  return bytes;
}

}  // namespace loza
