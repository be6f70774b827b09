#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <stdexcept>
#include <vector>

#include "loza/base/check.h"
#include "loza/base/dtype.h"
#include "loza/base/float16.h"
#include "loza/base/hash.h"
#include "loza/base/parallel_for.h"
#include "loza/base/random.h"
#include "loza/base/table.h"
#include "tests/support/temp_folder.h"

namespace loza {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Check, ThrowsOursWithThePlaceAndTheValues) {
  EXPECT_NO_THROW(LOZA_CHECK(1 + 1 == 2));
  const int got = 3;
  try {
    LOZA_CHECK(got == 4, got, "four");
    FAIL();
  } catch (const std::logic_error& e) {
    const std::string what = e.what();
    EXPECT_NE(what.find("base_test.cpp"), std::string::npos) << what;
    EXPECT_NE(what.find("got == 4"), std::string::npos) << what;
    EXPECT_NE(what.find("3 four"), std::string::npos) << what;
  }
}

TEST(ParallelFor, CallsEachIndexOnceForAnyThreadCount) {
  const int before = num_threads();
  for (const int threads : {1, 2, 3, 8}) {
    set_num_threads(threads);
    for (const std::int64_t n : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> calls(static_cast<std::size_t>(n));
      parallel_for(n, [&](std::int64_t i) {
        ++calls[static_cast<std::size_t>(i)];
        EXPECT_GE(thread_index(), 0);
        EXPECT_LT(thread_index(), num_threads());
      });
      for (const auto& count : calls) EXPECT_EQ(count, 1) << threads << " threads, n " << n;
    }
  }
  set_num_threads(before);
}

TEST(ParallelFor, RunsInsideItself) {
  std::atomic<int> calls = 0;
  parallel_for(5, [&](std::int64_t) { parallel_for(7, [&](std::int64_t) { ++calls; }); });
  EXPECT_EQ(calls, 35);
}

TEST(ParallelFor, RethrowsAndStillWorks) {
  for (const std::int64_t n : {1, 100}) {
    EXPECT_THROW(parallel_for(n, [](std::int64_t) { throw std::runtime_error("no"); }),
                 std::runtime_error);
  }
  std::atomic<int> calls = 0;
  parallel_for(10, [&](std::int64_t) { ++calls; });
  EXPECT_EQ(calls, 10);
}

// The vectors of FIPS 180-4's examples.
TEST(Sha256, KnownVectors) {
  EXPECT_EQ(sha256_hex(std::string("")),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex(std::string("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesAndFilesAreTheWhole) {
  const std::string text(100000, 'x');
  Sha256 hash;
  for (std::size_t begin = 0, step = 1; begin < text.size(); begin += step, step = step * 2 + 1) {
    const std::string piece = text.substr(begin, step);
    hash.update(std::as_bytes(std::span(piece.data(), piece.size())));
  }
  EXPECT_EQ(hash.hex_digest(), sha256_hex(text));
  const testing::TempFolder folder;
  EXPECT_EQ(sha256_file(folder.write("a", text)), sha256_hex(text));
  EXPECT_EQ(sha256_file(folder.write("empty", "")), sha256_hex(std::string()));
}

// The first numbers of SplitMix64 from the seed 1234567, as published with it.
TEST(Random, IsSplitMix64) {
  Random random(1234567);
  for (const std::uint64_t expected :
       {6457827717110365317ull, 3203168211198807973ull, 9817491932198370423ull,
        4593380528125082431ull, 16408922859458223821ull}) {
    EXPECT_EQ(random.next(), expected);
  }
}

TEST(Random, StaysInItsRangesAndFillsThem) {
  Random random(7);
  std::vector<int> counts(10);
  double sum = 0;
  for (int i = 0; i < 100000; ++i) {
    const double u = random.uniform();
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    const std::int64_t b = random.below(10);
    ASSERT_GE(b, 0);
    ASSERT_LT(b, 10);
    ++counts[static_cast<std::size_t>(b)];
  }
  EXPECT_NEAR(sum / 100000, 0.5, 0.01);
  for (const int count : counts) EXPECT_NEAR(count, 10000, 500);
  EXPECT_EQ(random.below(1), 0);
  EXPECT_THROW(random.below(0), std::logic_error);
  const std::int64_t large = random.below(std::int64_t{1} << 62);
  EXPECT_GE(large, 0);
  EXPECT_LT(large, std::int64_t{1} << 62);
}

TEST(Random, ShuffleIsAPermutationAndTheSeedDecidesIt) {
  std::vector<int> items(100);
  for (int i = 0; i < 100; ++i) items[static_cast<std::size_t>(i)] = i;
  std::vector<int> a = items, b = items, c = items;
  Random(1).shuffle(a);
  Random(1).shuffle(b);
  Random(2).shuffle(c);
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
  EXPECT_NE(a, items);
  EXPECT_EQ(std::set<int>(a.begin(), a.end()).size(), 100u);
  std::vector<int> none;
  Random(1).shuffle(none);
  EXPECT_TRUE(none.empty());
}

TEST(Table, AlignsAsMarkdown) {
  Table table({"plan", "recall"});
  table.add_row({"dense", "98.5"});
  table.add_row({"ñ", "1"});
  EXPECT_EQ(table.to_string(),
            "| plan  | recall |\n"
            "| ----- | -----: |\n"
            "| dense |   98.5 |\n"
            "| ñ     |      1 |\n");
  EXPECT_THROW(table.add_row({"one"}), std::logic_error);
}

TEST(BFloat16, RoundsToNearestEven) {
  EXPECT_EQ(BFloat16(1.0f).bits, 0x3F80);
  EXPECT_EQ(BFloat16(1.0f + 0x1.0p-8f).bits, 0x3F80) << "half, to even below";
  EXPECT_EQ(BFloat16(1.0f + 0x1.8p-7f).bits, 0x3F82) << "half, to even above";
  EXPECT_EQ(BFloat16(-0.0f).bits, 0x8000);
  EXPECT_EQ(BFloat16(kInfinity).bits, 0x7F80);
  EXPECT_EQ(BFloat16(std::numeric_limits<float>::max()).bits, 0x7F80) << "overflows";
  EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(std::nanf("")))));
  std::uint32_t small_nan = 0x7F800001;
  float value;
  std::memcpy(&value, &small_nan, sizeof value);
  EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(value))));
}

// What a half's bits mean, from IEEE 754's definition.
double half_value(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double magnitude = exponent == 0    ? std::ldexp(fraction, -24)
                           : exponent == 31 ? (fraction == 0 ? kInfinity : std::nan(""))
                                            : std::ldexp(1024 + fraction, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(Float16, ReadsAndWritesAllOfThem) {
  for (int i = 0; i < 65536; ++i) {
    Float16 half;
    half.bits = static_cast<std::uint16_t>(i);
    const double expected = half_value(half.bits);
    const float value = static_cast<float>(half);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value)) << i;
      ASSERT_TRUE(std::isnan(static_cast<float>(Float16(value)))) << i;
    } else {
      ASSERT_EQ(static_cast<double>(value), expected) << i;
      ASSERT_EQ(Float16(value).bits, i);
    }
  }
}

TEST(Float16, RoundsToNearestEvenBetweenAllNeighbours) {
  for (int i = 0; i < 0x7C00; ++i) {
    const double low = half_value(static_cast<std::uint16_t>(i));
    const double high = i == 0x7BFF ? 65536 : half_value(static_cast<std::uint16_t>(i + 1));
    const float middle = static_cast<float>((low + high) / 2);
    ASSERT_EQ(Float16(middle).bits, i % 2 == 0 ? i : i + 1) << i;
    ASSERT_EQ(Float16(std::nextafter(middle, 0.0f)).bits, i) << i;
    ASSERT_EQ(Float16(std::nextafter(middle, kInfinity)).bits, i + 1) << i;
    ASSERT_EQ(Float16(-middle).bits, 0x8000 | (i % 2 == 0 ? i : i + 1)) << i;
  }
  EXPECT_EQ(Float16(1e30f).bits, 0x7C00);
  EXPECT_EQ(Float16(1e-30f).bits, 0);
}

}  // namespace
}  // namespace loza
