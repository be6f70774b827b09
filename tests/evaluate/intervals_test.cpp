#include "loza/evaluate/intervals.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "loza/base/random.h"

namespace loza {
namespace {

struct WilsonCase {
  std::int64_t hits, n;
  double low, high;
};

// R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3; four decimals.
TEST(Wilson, EqualsThePublishedValues) {
  const std::vector<WilsonCase> cases = {{81, 263, 0.2553, 0.3662},
                                         {15, 148, 0.0624, 0.1605},
                                         {0, 20, 0.0, 0.1611},
                                         {1, 29, 0.0061, 0.1718}};
  for (const WilsonCase& c : cases) {
    const Interval got = wilson_interval(c.hits, c.n);
    EXPECT_DOUBLE_EQ(got.value, static_cast<double>(c.hits) / static_cast<double>(c.n));
    EXPECT_NEAR(got.low, c.low, 5e-5) << c.hits << "/" << c.n;
    EXPECT_NEAR(got.high, c.high, 5e-5) << c.hits << "/" << c.n;
  }
}

TEST(Wilson, StaysInRangeAndMirrors) {
  for (std::int64_t n = 1; n <= 60; ++n) {
    for (std::int64_t hits = 0; hits <= n; ++hits) {
      const Interval got = wilson_interval(hits, n), mirrored = wilson_interval(n - hits, n);
      EXPECT_GE(got.low, 0);
      EXPECT_LE(got.high, 1);
      EXPECT_LE(got.low, got.value);
      EXPECT_GE(got.high, got.value);
      EXPECT_NEAR(got.low, 1 - mirrored.high, 1e-12);
    }
  }
  EXPECT_EQ(wilson_interval(0, 5).low, 0);
  EXPECT_EQ(wilson_interval(5, 5).high, 1);
}

TEST(Wilson, RefusesWhatIsNoShare) {
  EXPECT_THROW(wilson_interval(0, 0), std::logic_error);
  EXPECT_THROW(wilson_interval(-1, 4), std::logic_error);
  EXPECT_THROW(wilson_interval(5, 4), std::logic_error);
}

// The sum of 12 uniform numbers: mean 6, standard deviation 1.
double nearly_normal(Random& random) {
  double sum = 0;
  for (int i = 0; i < 12; ++i) sum += random.uniform();
  return sum;
}

TEST(Bootstrap, CoversTheTrueMeanAsOftenAsItClaims) {
  Random random(7);
  constexpr int kTrials = 200, kUnits = 60;
  const std::vector<double> ones(kUnits, 1.0);
  int covered = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    std::vector<double> values;
    for (int i = 0; i < kUnits; ++i) values.push_back(nearly_normal(random));
    covered += bootstrap_ratio(values, ones).contains(6.0) ? 1 : 0;
  }
  EXPECT_GE(covered, 178);  // 190 expected; 3.9 standard deviations below
  EXPECT_LE(covered, 199);
}

TEST(Bootstrap, HasTheWidthOfTheNormalInterval) {
  Random random(3);
  std::vector<double> values;
  for (int i = 0; i < 400; ++i) values.push_back(nearly_normal(random));
  const Interval got = bootstrap_ratio(values, std::vector<double>(400, 1.0));
  EXPECT_NEAR(got.high - got.low, 2 * 1.96 / 20, 0.03);
}

TEST(Bootstrap, WeighsUnitsByTheirTokens) {
  const std::vector<double> nll = {2, 30}, tokens = {1, 10};
  const Interval got = bootstrap_ratio(nll, tokens);
  EXPECT_DOUBLE_EQ(got.value, 32.0 / 11.0);
  EXPECT_DOUBLE_EQ(got.low, 2);   // twice the first unit
  EXPECT_DOUBLE_EQ(got.high, 3);  // twice the second
}

TEST(Bootstrap, PairingRemovesWhatBothShare) {
  Random random(11);
  std::vector<double> a, b, difference;
  for (int i = 0; i < 100; ++i) {
    const double difficulty = 20 * random.uniform();
    a.push_back(difficulty + 0.1 * random.uniform());
    b.push_back(difficulty + 0.5 + 0.1 * random.uniform());
    difference.push_back(a.back() - b.back());
  }
  const std::vector<double> ones(100, 1.0);
  EXPECT_TRUE(bootstrap_ratio(a, ones).contains(bootstrap_ratio(b, ones).value));
  EXPECT_LT(bootstrap_ratio(difference, ones).high, -0.4);
}

TEST(Bootstrap, IsTheSameEveryTime) {
  const std::vector<double> values = {1, 5, 2, 8, 3}, ones(5, 1.0);
  const Interval first = bootstrap_ratio(values, ones), second = bootstrap_ratio(values, ones);
  EXPECT_EQ(first.low, second.low);
  EXPECT_EQ(first.high, second.high);
}

TEST(Bootstrap, RefusesEmptyUnevenAndWeightless) {
  const std::vector<double> none, one = {1}, two = {1, 2}, zero = {0};
  const std::vector<double> nan = {std::numeric_limits<double>::quiet_NaN()};
  EXPECT_THROW(bootstrap_ratio(none, none), std::logic_error);
  EXPECT_THROW(bootstrap_ratio(one, two), std::logic_error);
  EXPECT_THROW(bootstrap_ratio(one, zero), std::logic_error);
  EXPECT_THROW(bootstrap_ratio(one, nan), std::logic_error);
}

}  // namespace
}  // namespace loza
