#include "loza/attention/pattern.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <vector>

#include "loza/attention/reference/visible.h"
#include "tests/support/case_count.h"

namespace loza {
namespace {

std::vector<BlockPattern> many_patterns() {
  std::vector<BlockPattern> patterns;
  for (const std::int64_t block : {1, 2, 3, 5, 8}) {
    for (const std::int64_t sink : {0, 1, 2, 3, 7, 39, 40, 41}) {
      for (const std::int64_t recent : {1, 2, 3, 4, 7, 38, 39, 40, 41}) {
        patterns.push_back({block, sink, recent});
      }
    }
    patterns.push_back(BlockPattern::full(block));
  }
  return patterns;
}

constexpr std::int64_t kNumBlocks = 40;

TEST(Pattern, BlocksAgreeWithTheTokenRuleAtEveryPosition) {
  for (const BlockPattern& pattern : many_patterns()) {
    SCOPED_TRACE(::testing::Message() << pattern.block_size << " " << pattern.sink_blocks << " "
                                      << pattern.recent_blocks);
    const std::int64_t len = kNumBlocks * pattern.block_size;
    for (std::int64_t query = 0; query < len; ++query) {
      const VisibleBlocks blocks = visible_blocks(pattern, query / pattern.block_size);
      ASSERT_LE(blocks.sink.begin, blocks.sink.end);
      ASSERT_LT(blocks.recent.begin, blocks.recent.end);
      ASSERT_TRUE(blocks.sink.size() == 0 || blocks.sink.end < blocks.recent.begin);
      const auto in = [&](const BlockRange& range, std::int64_t pos) {
        return pos / pattern.block_size >= range.begin && pos / pattern.block_size < range.end;
      };
      std::int64_t num_visible = 0;
      for (std::int64_t key = 0; key < len; ++key) {
        const bool by_token = reference::is_visible(pattern, query, key);
        const bool by_block = (in(blocks.sink, key) || in(blocks.recent, key)) && key <= query;
        ASSERT_EQ(by_token, by_block) << query << " " << key;
        num_visible += by_token;
      }
      ASSERT_EQ(num_visible_keys(pattern, query), num_visible) << query;
      ++testing::case_count();
    }
  }
}

TEST(Pattern, SeeingBlocksIsTheInverse) {
  for (const BlockPattern& pattern : many_patterns()) {
    for (const std::int64_t num_blocks : {std::int64_t{1}, std::int64_t{7}, kNumBlocks}) {
      for (std::int64_t key = 0; key < num_blocks; ++key) {
        const BlockRange seeing = seeing_blocks(pattern, key, num_blocks);
        for (std::int64_t query = 0; query < num_blocks; ++query) {
          const VisibleBlocks blocks = visible_blocks(pattern, query);
          const bool sees =
              key < blocks.sink.end || (key >= blocks.recent.begin && key < blocks.recent.end);
          ASSERT_EQ(query >= seeing.begin && query < seeing.end, sees)
              << pattern.sink_blocks << " " << pattern.recent_blocks << " " << key << " " << query;
        }
        ++testing::case_count();
      }
    }
  }
}

TEST(Pattern, ExactLengthIsWhereSomethingBecomesInvisible) {
  for (const BlockPattern& pattern : many_patterns()) {
    if (pattern.is_full()) continue;
    const std::int64_t exact = pattern.exact_len();
    if (exact > 20 * pattern.block_size) continue;
    for (std::int64_t query = 0; query < exact; ++query) {
      ASSERT_EQ(num_visible_keys(pattern, query), query + 1);
    }
    ASSERT_LT(num_visible_keys(pattern, exact), exact + 1);
  }
}

// A ring of num_ring_blocks slots holds the windows of the last `num_new` tokens at once.
TEST(Pattern, TheRingHoldsTheWindowsOfTheNewTokens) {
  for (const BlockPattern& pattern : many_patterns()) {
    if (pattern.is_full()) continue;
    for (const std::int64_t num_new : {1, 2, 4, 8}) {
      const std::int64_t ring = num_ring_blocks(pattern, num_new);
      for (std::int64_t last = num_new - 1; last < kNumBlocks * pattern.block_size; ++last) {
        std::set<std::int64_t> slots;
        std::set<std::int64_t> alive;
        for (std::int64_t query = last - num_new + 1; query <= last; ++query) {
          for (std::int64_t key = 0; key <= query; ++key) {
            const std::int64_t block = key / pattern.block_size;
            if (block < pattern.sink_blocks || !reference::is_visible(pattern, query, key)) {
              continue;
            }
            alive.insert(block);
          }
        }
        for (const std::int64_t block : alive) slots.insert(block % ring);
        ASSERT_EQ(slots.size(), alive.size()) << pattern.block_size << " " << last;
        // The last of them is used: one slot fewer would not do everywhere.
        ASSERT_LE(static_cast<std::int64_t>(alive.size()), ring);
      }
    }
    if (pattern.block_size > 2) break;
  }
}

TEST(Pattern, FullSurvivesPositionsBeyondAnySequence) {
  constexpr std::int64_t far = std::int64_t{1} << 22;
  static_assert(visible_blocks(BlockPattern::full(), far).recent.begin == 0);
  static_assert(num_visible_keys(BlockPattern::full(), far * 128) == far * 128 + 1);
  static_assert(num_visible_keys(BlockPattern{}, 1151) == 1024);
  static_assert(num_visible_keys(BlockPattern{}, 1152) == 897);
  static_assert(num_visible_keys(BlockPattern{}, (std::int64_t{1} << 40) * 128) == 897);
}

}  // namespace
}  // namespace loza
