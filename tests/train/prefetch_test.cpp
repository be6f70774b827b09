#include "loza/train/prefetch.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

namespace loza {
namespace {

TokenizedDocument document_of(std::uint64_t seed, std::int64_t index) {
  TokenizedDocument document;
  document.ids = {static_cast<std::int64_t>(seed), index};
  return document;
}

TEST(Prefetch, GivesTheSameDocuments) {
  const DrawDocument draw = prefetched(document_of, {.num_threads = 3, .num_ahead = 7, .end = 50});
  const std::vector<std::pair<std::uint64_t, std::int64_t>> asked{
      {1, 0}, {1, 1}, {1, 2}, {1, 30}, {1, 5}, {2, 5}, {2, 6}, {1, 6}, {1, 49}, {1, 80}, {1, 81}};
  for (const auto& [seed, index] : asked) {
    EXPECT_EQ(draw(seed, index).ids, document_of(seed, index).ids) << seed << " " << index;
  }
  for (std::int64_t i = 0; i < 50; ++i) EXPECT_EQ(draw(9, i).ids[1], i);
}

TEST(Prefetch, WorksAheadAndStopsAtTheEnd) {
  std::atomic<std::int64_t> highest{-1};
  const DrawDocument draw = prefetched(
      [&](std::uint64_t seed, std::int64_t index) {
        std::int64_t seen = highest;
        while (seen < index && !highest.compare_exchange_weak(seen, index)) {
        }
        return document_of(seed, index);
      },
      {.num_threads = 2, .num_ahead = 8, .end = 20});
  draw(1, 0);
  for (int i = 0; i < 500 && highest < 7; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(highest, 7);
  for (std::int64_t i = 1; i < 20; ++i) draw(1, i);
  EXPECT_EQ(highest, 19);
}

TEST(Prefetch, ThrowsWhatDrawingThrows) {
  const DrawDocument draw = prefetched(
      [](std::uint64_t seed, std::int64_t index) {
        if (index == 3) throw std::runtime_error("three");
        return document_of(seed, index);
      },
      {.num_threads = 2, .num_ahead = 8, .end = 20});
  EXPECT_EQ(draw(1, 2).ids[1], 2);
  EXPECT_THROW(draw(1, 3), std::runtime_error);
  EXPECT_EQ(draw(1, 4).ids[1], 4);
}

}  // namespace
}  // namespace loza
