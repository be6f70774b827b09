#include "loza/engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "loza/base/error.h"

namespace loza {
namespace {

std::vector<float> random_logits(Random& random, std::size_t size, double spread = 4) {
  std::vector<float> logits(size);
  for (float& logit : logits) logit = static_cast<float>((random.uniform() - 0.5) * spread);
  return logits;
}

// The shares after the filters, by definition: sorts everything, drops one by one.
std::vector<double> expected_shares(const std::vector<float>& logits,
                                    const SamplingOptions& options) {
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  const auto softmax = [&] {
    std::vector<double> shares;
    double total = 0;
    for (const std::size_t i : order) {
      shares.push_back(
          std::exp((static_cast<double>(logits[i]) - logits[order[0]]) / options.temperature));
      total += shares.back();
    }
    for (double& share : shares) share /= total;
    return shares;
  };
  if (options.top_k > 0 && static_cast<std::size_t>(options.top_k) < order.size()) {
    order.resize(static_cast<std::size_t>(options.top_k));
  }
  std::vector<double> shares = softmax();
  if (options.top_p < 1) {
    double sum = 0;
    std::size_t kept = 0;
    do {
      sum += shares[kept++];
    } while (sum < options.top_p - 1e-12 && kept < order.size());
    order.resize(kept);
  }
  shares = softmax();
  while (shares.back() < options.min_p * shares[0] * (1 - 1e-12)) {
    shares.pop_back();
    order.pop_back();
  }
  shares = softmax();
  std::vector<double> result(logits.size(), 0);
  for (std::size_t i = 0; i < order.size(); ++i) result[order[i]] = shares[i];
  return result;
}

TEST(Sampler, GreedyTakesTheLargestAndOfEqualsTheFirst) {
  Sampler sampler({});
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 3, 2, 3}), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{-5}), 0);
  Random random(1);
  for (int round = 0; round < 500; ++round) {
    std::vector<float> logits = random_logits(random, 1 + random.below(100));
    for (float& logit : logits) logit = std::round(logit);
    const auto largest = std::max_element(logits.begin(), logits.end()) - logits.begin();
    EXPECT_EQ(sampler.sample(logits), largest);
  }
}

TEST(Sampler, SharesAreThoseOfTheDefinition) {
  Random random(2);
  constexpr int kDraws = 20'000;
  int num_settings = 0;
  for (const double temperature : {0.3, 1.0, 2.5}) {
    for (const std::int64_t top_k : {0, 1, 5, 40, 1000}) {
      for (const double top_p : {1.0, 0.9, 0.4}) {
        for (const double min_p : {0.0, 0.1, 0.5}) {
          const SamplingOptions options{temperature, top_k, top_p, min_p,
                                        static_cast<std::uint64_t>(num_settings++)};
          const std::vector<float> logits = random_logits(random, 60);
          const std::vector<double> shares = expected_shares(logits, options);
          std::vector<int> counts(logits.size(), 0);
          Sampler sampler(options);
          for (int i = 0; i < kDraws; ++i) {
            ++counts[static_cast<std::size_t>(*sampler.sample(logits))];
          }
          for (std::size_t i = 0; i < logits.size(); ++i) {
            if (shares[i] == 0) {
              ASSERT_EQ(counts[i], 0) << "a filtered token was drawn";
              continue;
            }
            const double deviation = std::sqrt(kDraws * shares[i] * (1 - shares[i])) + 1;
            ASSERT_NEAR(counts[i], kDraws * shares[i], 6 * deviation)
                << "temperature " << temperature << ", top-k " << top_k << ", top-p " << top_p
                << ", min-p " << min_p;
          }
        }
      }
    }
  }
  std::printf("%d settings, %d draws each\n", num_settings, kDraws);
}

TEST(Sampler, TopPRanksAsManyAsItNeeds) {
  // Flat logits of a large vocabulary: half of the share is half of the tokens.
  const std::vector<float> logits(5000, 1.0f);
  Sampler sampler({1, 0, 0.5, 0, 7});
  std::int64_t largest = 0;
  for (int i = 0; i < 2000; ++i) largest = std::max(largest, *sampler.sample(logits));
  EXPECT_LE(largest, 2500);  // ties go to lower ids
  EXPECT_GT(largest, 2400);
}

TEST(Sampler, EdgesOfTheFilters) {
  Random random(3);
  const std::vector<float> logits = random_logits(random, 100);
  const auto largest = std::max_element(logits.begin(), logits.end()) - logits.begin();
  for (int i = 0; i < 100; ++i) {
    const auto seed = static_cast<std::uint64_t>(i);
    EXPECT_EQ(Sampler({1, 0, 0, 0, seed}).sample(logits), largest) << "top-p 0";
    EXPECT_EQ(Sampler({1, 1, 1, 0, seed}).sample(logits), largest) << "top-k 1";
    EXPECT_EQ(Sampler({1, 0, 1, 1, seed}).sample(logits), largest) << "min-p 1";
    EXPECT_EQ(Sampler({1e-300, 0, 1, 0, seed}).sample(logits), largest) << "tiny temperature";
    EXPECT_EQ(Sampler({5e-324, 0, 0.9, 0.1, seed}).sample(logits), largest);
    // k beyond the vocabulary is no filter.
    EXPECT_EQ(Sampler({1, 0, 1, 0, seed}).sample(logits),
              Sampler({1, 1'000'000, 1, 0, seed}).sample(logits));
  }
}

TEST(Sampler, TiesAtTheCutGoToTheLowerIds) {
  const std::vector<float> logits = {0, 2, 2, 2, 2, 1};
  std::vector<int> counts(6, 0);
  Sampler sampler({1, 3, 1, 0, 4});
  for (int i = 0; i < 3000; ++i) ++counts[static_cast<std::size_t>(*sampler.sample(logits))];
  EXPECT_EQ(counts[0] + counts[4] + counts[5], 0);
  for (const int i : {1, 2, 3}) EXPECT_NEAR(counts[static_cast<std::size_t>(i)], 1000, 200);
  // Even a tiny temperature keeps equals equal.
  Sampler cold({1e-300, 0, 1, 0, 5});
  std::fill(counts.begin(), counts.end(), 0);
  for (int i = 0; i < 4000; ++i) ++counts[static_cast<std::size_t>(*cold.sample(logits))];
  for (const int i : {1, 2, 3, 4}) EXPECT_NEAR(counts[static_cast<std::size_t>(i)], 1000, 200);
}

TEST(Sampler, ExtremeLogitsStayNumbers) {
  const float huge = std::numeric_limits<float>::max();
  Sampler sampler({1, 0, 0.95, 0.01, 6});
  EXPECT_EQ(sampler.sample(std::vector<float>{-huge, huge, -huge}), 1);
  EXPECT_EQ(Sampler({1e300, 0, 1, 0, 7}).sample(std::vector<float>{huge}), 0);
}

TEST(Sampler, BrokenLogitsHaveNoNextToken) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const float broken : {std::nanf(""), -std::nanf(""), inf, -inf}) {
    for (const double temperature : {0.0, 1.0}) {
      for (const std::size_t place : {0, 1, 16, 48, 49}) {
        std::vector<float> logits(50, 0.5f);
        Sampler sampler({temperature, 3, 0.9, 0.1, 8});
        EXPECT_TRUE(sampler.sample(logits).has_value());
        logits[place] = broken;
        EXPECT_EQ(sampler.sample(logits), std::nullopt) << broken << " at " << place;
      }
    }
  }
}

TEST(Sampler, TheSameSeedDrawsTheSame) {
  Random random(9);
  std::vector<std::vector<float>> steps;
  for (int i = 0; i < 200; ++i) steps.push_back(random_logits(random, 300));
  const auto draw = [&](std::uint64_t seed) {
    Sampler sampler({1, 50, 0.95, 0.02, seed});
    std::vector<std::int64_t> ids;
    for (const auto& logits : steps) ids.push_back(*sampler.sample(logits));
    return ids;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(Sampler, OptionsAreChecked) {
  const double nan = std::nan("");
  const SamplingOptions wrong[] = {{-1},           {nan},         {HUGE_VAL},  {1, -1},
                                   {1, 0, -0.1},   {1, 0, 1.1},   {1, 0, nan}, {1, 0, 1, -0.1},
                                   {1, 0, 1, 1.1}, {1, 0, 1, nan}};
  for (const SamplingOptions& options : wrong) {
    try {
      check_sampling(options, "request");
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kUsage);
      EXPECT_TRUE(error.text().place.starts_with("request: "));
    }
  }
  EXPECT_NO_THROW(check_sampling({}, "request"));
  EXPECT_NO_THROW(check_sampling({100, 1 << 30, 0, 1}, "request"));
}

}  // namespace
}  // namespace loza
