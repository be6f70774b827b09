#include "loza/attention/cuda/visible_pages.h"

#include <gtest/gtest.h>

#include <set>

// The GPU kernels' list of pages against the token rule. Needs no GPU.
namespace loza::attention::cuda {
namespace {

bool is_visible(const BlockPattern& pattern, int query, int key) {
  if (key > query) return false;
  const std::int64_t query_block = query / pattern.block_size, key_block = key / pattern.block_size;
  return key_block < pattern.sink_blocks || key_block > query_block - pattern.recent_blocks;
}

// Pages that hold a key that some query sees, key by key.
std::set<int> pages_by_definition(const BlockPattern& pattern, int length, int q_len) {
  std::set<int> pages;
  for (int query = std::max(0, length - q_len); query < length; ++query) {
    for (int key = 0; key <= query; key += 16) {
      if (is_visible(pattern, query, key)) pages.insert(key / kPageLen);
    }
  }
  return pages;
}

TEST(VisiblePages, AreThoseOfTheTokenRuleInOrder) {
  int cases = 0;
  for (const BlockPattern& pattern :
       {BlockPattern{128, 1, 7}, BlockPattern{128, 1, 1}, BlockPattern{128, 0, 4},
        BlockPattern{128, 2, 2}, BlockPattern{64, 1, 3}, BlockPattern{256, 3, 1},
        BlockPattern::full()}) {
    for (int length = 0; length <= 1600; length += length % 64 < 9 || length % 64 > 55 ? 1 : 23) {
      for (const int q_len : {1, 2, 5, 8}) {
        const VisiblePages got = visible_pages(page_pattern(pattern), length, q_len);
        std::vector<int> pages;
        for (int i = 0; i < got.size; ++i) pages.push_back(got.page(i));
        const std::set<int> want = pages_by_definition(pattern, length, q_len);
        ASSERT_EQ(pages, std::vector<int>(want.begin(), want.end()))
            << "length " << length << " q_len " << q_len << " pattern " << pattern.sink_blocks
            << "," << pattern.recent_blocks;
        ++cases;
      }
    }
  }
  EXPECT_GT(cases, 6000);
}

TEST(VisiblePages, NewPagesHoldTheNewTokens) {
  for (int length = 0; length < 300; ++length) {
    for (int q_len = 1; q_len <= 8; ++q_len) {
      std::set<int> pages;
      for (int pos = std::max(0, length - q_len); pos < length; ++pos) pages.insert(pos / kPageLen);
      ASSERT_EQ(num_new_pages(length, q_len), static_cast<int>(pages.size()));
    }
  }
}

TEST(VisiblePages, HugePatternsDoNotOverflow) {
  const PagePattern pattern =
      page_pattern({128, BlockPattern::kAllBlocks * 64, BlockPattern::kAllBlocks * 64});
  EXPECT_EQ(pattern.recent_begin(0x7FFFFFF0), 0);
  EXPECT_GT(pattern.sink_len(), 0x7FFFFF00);
}

TEST(Share, DealsEverythingOnceInOrder) {
  for (int count = 0; count < 50; ++count) {
    for (int parts = 1; parts < 20; ++parts) {
      int next = 0;
      for (int part = 0; part < parts; ++part) {
        const Share share = share_of(count, parts, part);
        ASSERT_EQ(share.begin, next);
        ASSERT_LE(share.size, count / parts + 1);
        next += share.size;
      }
      ASSERT_EQ(next, count);
    }
  }
}

}  // namespace
}  // namespace loza::attention::cuda
