// The KV manager against a naive model, over random operations.
#include "loza/engine/kv_cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "loza/base/error.h"
#include "loza/base/random.h"
#include "tests/engine/core/small_row.h"

namespace loza {
namespace {

const BlockPattern kStreaming{4, 1, 3};
const BlockPattern kFull = BlockPattern::full(4);

float* row_at(const PagedKvView& view, std::size_t sequence_idx, std::int64_t pos) {
  const std::int64_t slot = page_slot(view, pos / view.page_len);
  EXPECT_LT(slot, view.table_stride);
  const std::int64_t page =
      view.page_table[static_cast<std::int64_t>(sequence_idx) * view.table_stride + slot];
  EXPECT_GE(page, 0);
  return static_cast<float*>(view.pages) + page * view.page_stride +
         pos % view.page_len * view.row_stride;
}

TEST(PageLen, DividesTheBlockAndIsAtMost64) {
  for (std::int64_t block_size = 1; block_size <= 1000; ++block_size) {
    const std::int64_t page_len = page_len_for(block_size);
    EXPECT_EQ(block_size % page_len, 0);
    EXPECT_LE(page_len, 64);
    if (block_size <= 64) EXPECT_EQ(page_len, block_size);
  }
  EXPECT_EQ(page_len_for(128), 64);
  EXPECT_EQ(page_len_for(96), 48);
}

TEST(PagePool, HandsOutEachPageOnce) {
  PagePool pool(257);
  Random random(1);
  std::set<std::int32_t> held;
  for (int op = 0; op < 1'000'000; ++op) {
    // The wind turns now and then, so that the pool is both drained and filled.
    const bool grow = random.below(100) < (op / 5000 % 2 == 0 ? 70 : 30);
    if (grow) {
      const auto page = pool.allocate();
      ASSERT_EQ(page.has_value(), held.size() < 257);
      if (page) ASSERT_TRUE(held.insert(*page).second) << "page " << *page << " has two holders";
    } else if (!held.empty()) {
      const auto it =
          std::next(held.begin(),
                    random.below(static_cast<std::int64_t>(std::min<std::size_t>(held.size(), 8))));
      pool.release(*it);
      held.erase(it);
    }
    ASSERT_EQ(pool.num_used(), static_cast<std::int64_t>(held.size()));
    ASSERT_EQ(pool.num_used() + pool.num_free(), pool.num_pages());
  }
}

TEST(PagePool, RefusesWhatWasNeverHandedOut) {
  PagePool pool(4);
  const std::int32_t page = *pool.allocate();
  pool.release(page);
  EXPECT_THROW(pool.release(page), std::logic_error);
  EXPECT_THROW(pool.release(-1), std::logic_error);
  EXPECT_THROW(pool.release(4), std::logic_error);
}

// What the cache should hold, said in the simplest way.
struct NaiveSequence {
  std::int64_t length = 0, max_len = 0;
};

class NaiveCache {
 public:
  NaiveCache(std::int64_t num_pages, std::int64_t page_len, std::int64_t max_sequences)
      : num_pages_(num_pages), page_len_(page_len), max_sequences_(max_sequences) {}

  std::int64_t pages_of(std::int64_t length) const { return (length + page_len_ - 1) / page_len_; }
  bool can_open(std::int64_t max_len) const {
    std::int64_t promised = pages_of(max_len);
    for (const auto& [id, sequence] : open) promised += pages_of(sequence.max_len);
    return static_cast<std::int64_t>(open.size()) < max_sequences_ && promised <= num_pages_;
  }
  std::int64_t num_used() const {
    std::int64_t used = 0;
    for (const auto& [id, sequence] : open) used += pages_of(sequence.length);
    return used;
  }

  std::map<KvSequence, NaiveSequence> open;

 private:
  std::int64_t num_pages_, page_len_, max_sequences_;
};

TEST(KvCache, MillionRandomOperationsAgainstANaiveModel) {
  constexpr std::int64_t kMaxSequences = 6, kNumTokens = 200;
  const std::vector<BlockPattern> patterns = {kFull, kStreaming, kFull, kStreaming, kStreaming};
  KvCache cache(small_row(), patterns, {kMaxSequences, kNumTokens});
  const KvPages& pages = cache.page_groups()[0];
  NaiveCache naive(pages.pool().num_pages(), pages.page_len(), kMaxSequences);
  Random random(2);
  std::vector<int> seen_in_op(static_cast<std::size_t>(pages.pool().num_pages()), -1);
  std::int64_t num_opened = 0, num_refused = 0, num_appended = 0, num_closed = 0;

  const auto any_open = [&] {
    return std::next(naive.open.begin(),
                     random.below(static_cast<std::int64_t>(naive.open.size())));
  };
  for (int op = 0; op < 1'000'000; ++op) {
    const std::int64_t dice = random.below(100);
    if (dice < 20 || naive.open.empty()) {
      const std::int64_t max_len = random.below(random.below(10) == 0 ? 300 : 60);
      ASSERT_EQ(cache.can_open(max_len), naive.can_open(max_len));
      if (naive.can_open(max_len)) {
        const KvSequence sequence = cache.open(max_len);
        ASSERT_TRUE(naive.open.emplace(sequence, NaiveSequence{0, max_len}).second);
        ++num_opened;
      } else {
        ++num_refused;
      }
    } else if (dice < 90) {
      auto& [id, sequence] = *any_open();
      const std::int64_t num_new = std::min(random.below(9), sequence.max_len - sequence.length);
      cache.append(id, num_new);
      sequence.length += num_new;
      ++num_appended;
    } else {
      const auto closed = any_open();
      cache.close(closed->first);
      naive.open.erase(closed);
      ++num_closed;
    }

    ASSERT_EQ(cache.num_open(), static_cast<std::int64_t>(naive.open.size()));
    ASSERT_EQ(pages.pool().num_used(), naive.num_used());
    ASSERT_EQ(pages.pool().num_used() + pages.pool().num_free(), pages.pool().num_pages());
    for (const auto& [id, sequence] : naive.open) {
      ASSERT_EQ(cache.length(id), sequence.length);
      const auto& held = pages.pages_of(static_cast<std::size_t>(id));
      ASSERT_EQ(static_cast<std::int64_t>(held.size()), naive.pages_of(sequence.length));
      for (const std::int32_t page : held) {
        int& seen = seen_in_op[static_cast<std::size_t>(page)];
        ASSERT_NE(seen, op) << "page " << page << " has two owners";
        seen = op;
        ASSERT_TRUE(pages.pool().is_used(page));
      }
    }
  }
  std::printf("%ld opened, %ld refused, %ld appended, %ld closed\n", num_opened, num_refused,
              num_appended, num_closed);
  EXPECT_GT(num_refused, 10'000);
  EXPECT_GT(num_closed, 10'000);
}

// A value that tells module, sequence (by the count of its opening) and position apart.
float stamp(std::size_t module_idx, std::int64_t opening, std::int64_t pos) {
  return static_cast<float>((static_cast<std::int64_t>(module_idx) * 131 + opening % 997) * 4096 +
                            pos);
}

struct Stamped {
  std::int64_t opening = 0, length = 0, max_len = 0;
};

// Each visible row of each module of each sequence holds what was written for it, in pages
// and in rings alike.
void expect_contents(const std::vector<PagedKvView>& views,
                     const std::vector<BlockPattern>& patterns, std::size_t sequence_idx,
                     const Stamped& sequence, std::int64_t query_pos) {
  for (std::size_t m = 0; m < patterns.size(); ++m) {
    const VisibleBlocks visible = visible_blocks(patterns[m], query_pos / patterns[m].block_size);
    for (const BlockRange range : {visible.sink, visible.recent}) {
      for (std::int64_t pos = range.begin * patterns[m].block_size;
           pos < std::min(range.end * patterns[m].block_size, query_pos + 1); ++pos) {
        const float* row = row_at(views[m], sequence_idx, pos);
        ASSERT_EQ(row[0], stamp(m, sequence.opening, pos))
            << "module " << m << ", position " << pos << ", query " << query_pos;
        ASSERT_EQ(row[1], -row[0]);
      }
    }
  }
}

TEST(KvCache, RowsAreFoundWhereTheyWereWrittenInPagesAndRings) {
  const std::vector<BlockPattern> patterns = {kFull,      kStreaming, {8, 2, 1},
                                              kStreaming, kFull,      {3, 0, 2}};
  KvCache cache(small_row(), patterns, {5, 400, 0, /*poison=*/true});
  std::map<KvSequence, Stamped> open;
  Random random(3);
  std::int64_t num_openings = 0, num_checked = 0;
  for (int op = 0; op < 60'000; ++op) {
    const std::int64_t dice = random.below(100);
    if (dice < 10 || open.empty()) {
      const std::int64_t max_len = 1 + random.below(120);
      if (cache.can_open(max_len)) open[cache.open(max_len)] = {num_openings++, 0, max_len};
      continue;
    }
    auto chosen = std::next(open.begin(), random.below(static_cast<std::int64_t>(open.size())));
    if (dice < 15) {
      cache.close(chosen->first);
      open.erase(chosen);
      continue;
    }
    // Up to kMaxNewTokens rows are written together, then each of them is queried.
    auto& [id, sequence] = *chosen;
    const std::int64_t num_new =
        std::min(random.below(KvRing::kMaxNewTokens + 1), sequence.max_len - sequence.length);
    cache.append(id, num_new);
    std::vector<KvSequence> batch;
    std::size_t place = 0;
    for (const auto& [other, unused] : open) {
      if (other == id) place = batch.size();
      batch.push_back(other);
    }
    const auto& views = cache.views(batch);
    for (std::size_t m = 0; m < patterns.size(); ++m) {
      ASSERT_EQ(views[m].lengths[place], sequence.length + num_new);
      for (std::int64_t pos = sequence.length; pos < sequence.length + num_new; ++pos) {
        float* row = row_at(views[m], place, pos);
        row[0] = stamp(m, sequence.opening, pos);
        row[1] = -row[0];
      }
    }
    for (std::int64_t i = 0; i < num_new; ++i, ++num_checked) {
      expect_contents(views, patterns, place, sequence, sequence.length + i);
      if (HasFatalFailure()) return;
    }
    sequence.length += num_new;
  }
  std::printf("%ld sequences, %ld queries\n", num_openings, num_checked);
  EXPECT_GT(num_checked, 100'000);
}

TEST(KvCache, PoisonedWhereNoTokenIs) {
  const std::vector<BlockPattern> patterns = {kFull, kStreaming};
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    KvRow row = KvRow::heads(dtype, 1, 1, 1);
    KvCache cache(row, patterns, {1, 8, 0, /*poison=*/true});
    for (int round = 0; round < 2; ++round) {
      const KvSequence sequence = cache.open(8);
      cache.append(sequence, 8);
      for (const PagedKvView& view : cache.views({sequence})) {
        for (std::int64_t element = 0; element < 4 * row.size; ++element) {
          if (dtype == DType::kF32) {
            auto* data = static_cast<float*>(view.pages);
            EXPECT_TRUE(std::isnan(data[element]));
            data[element] = 1;
          } else {
            auto* data = static_cast<double*>(view.pages);
            EXPECT_TRUE(std::isnan(data[element]));
            data[element] = 1;
          }
        }
      }
      cache.close(sequence);
    }
  }
}

TEST(KvCache, BytesByKindAreExact) {
  // 30 modules, 15 streaming, as SmolLM2-135M in bf16: 3 key heads of 64, 768 bytes a token.
  std::vector<BlockPattern> patterns(30, BlockPattern::full());
  for (std::size_t i = 0; i < 30; i += 2) patterns[i] = BlockPattern{};
  const KvRow row = KvRow::heads(DType::kBF16, 3, 64, 64);
  EXPECT_EQ(row.size_bytes(), 768);
  KvCache cache(row, patterns, {2, 16384});
  const std::int64_t ring_bytes = 15 * (1 + 7 + 1) * 128 * 768;

  EXPECT_EQ(cache.used_bytes(), (KvBytes{0, 0}));
  const KvSequence sequence = cache.open(8192);
  std::int64_t length = 0;
  for (const std::int64_t num_new : {1, 63, 1, 959, 1024, 6144}) {
    cache.append(sequence, num_new);
    length += num_new;
    const KvBytes expected{15 * ((length + 63) / 64) * 64 * 768, ring_bytes};
    EXPECT_EQ(cache.used_bytes(), expected) << length;
    EXPECT_EQ(kv_bytes_at(row, patterns, length), expected) << length;
  }
  EXPECT_EQ(cache.capacity_bytes(), (KvBytes{15ll * 16384 * 768, 2 * ring_bytes}));
  cache.close(sequence);
  EXPECT_EQ(cache.used_bytes(), (KvBytes{0, 0}));
}

TEST(KvCache, LatentRowsOfMla) {
  const KvRow row = KvRow::latent(DType::kBF16, 512, 64);
  EXPECT_EQ(row.size_bytes(), 1152);
  EXPECT_EQ(row.v_offset, 0);
  EXPECT_EQ(row.k_head_stride, 0);
}

TEST(KvCache, RowsFollowTheModel) {
  ModelConfig config;
  config.num_key_heads = 2;
  config.head_size = 16;
  EXPECT_EQ(kv_row_of(config, DType::kF32).size, config.kv_row_size());
  EXPECT_EQ(kv_row_of(config, DType::kF32).v_offset, 32);
  config.attention = ModelConfig::Attention::kMla;
  config.kv_lora_rank = 24;
  config.rope_size = 8;
  EXPECT_EQ(kv_row_of(config, DType::kF32).size, config.kv_row_size());
}

TEST(KvCache, BudgetErrorNamesNeededAndAvailable) {
  const std::vector<BlockPattern> patterns = {kFull, kStreaming};
  const std::int64_t full_bytes = 100 * 8, ring_bytes = 3 * (1 + 3 + 2) * 4 * 8;
  ASSERT_EQ(num_ring_blocks(kStreaming, KvRing::kMaxNewTokens), 3 + 2);
  EXPECT_NO_THROW(KvCache(small_row(), patterns, {3, 100, full_bytes + ring_bytes}));
  try {
    KvCache(small_row(), patterns, {3, 100, full_bytes + ring_bytes - 1});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kDoesNotFit);
    EXPECT_NE(error.text().expected.find(std::to_string(full_bytes + ring_bytes - 1)),
              std::string::npos);
    EXPECT_NE(error.text().got.find(std::to_string(full_bytes + ring_bytes)), std::string::npos);
    EXPECT_FALSE(error.text().remedy.empty());
  }
  // Without a budget the machine's own memory is the limit.
  EXPECT_GT(available_memory_bytes(), 1 << 20);
  EXPECT_THROW(KvCache(KvRow::heads(DType::kF64, 64, 128, 128), patterns,
                       {KvCache::kMaxSequences, KvCache::kMaxTokens}),
               Error);
}

TEST(KvCache, ReservesVirtualMemoryOnly) {
  // Far more than a test should touch; committed only when written.
  const std::int64_t budget = std::int64_t{1} << 40;
  KvCache cache(KvRow::heads(DType::kF32, 8, 128, 128), {BlockPattern::full()},
                {1, 4 << 20, budget});
  const KvSequence sequence = cache.open(4 << 20);
  cache.append(sequence, 4 << 20);
  const auto& views = cache.views({sequence});
  float* last = row_at(views[0], 0, (4 << 20) - 1);  // 32 GiB behind the first
  last[2047] = 1;
  EXPECT_EQ(last[2047], 1);
}

TEST(KvCache, MisuseIsCaught) {
  KvCache cache(small_row(), {kFull, kStreaming}, {2, 16});
  EXPECT_FALSE(cache.can_open(17));
  EXPECT_FALSE(cache.could_ever_open(17));
  EXPECT_TRUE(cache.could_ever_open(16));
  EXPECT_THROW(cache.open(17), std::logic_error);
  const KvSequence sequence = cache.open(9);
  EXPECT_FALSE(cache.can_open(5)) << "three of four pages are promised";
  EXPECT_TRUE(cache.could_ever_open(16));
  EXPECT_THROW(cache.append(sequence, 10), std::logic_error);
  cache.close(sequence);
  EXPECT_THROW(cache.close(sequence), std::logic_error);
  EXPECT_THROW(cache.append(sequence, 1), std::logic_error);
}

}  // namespace
}  // namespace loza
