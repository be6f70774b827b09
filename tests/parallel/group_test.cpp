#include "loza/parallel/group.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <chrono>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "loza/base/error.h"
#include "tests/parallel/ranks.h"

namespace loza {
namespace {

using std::chrono::milliseconds;
using testing::free_port;
using testing::launch_of;
using testing::no_errors;
using testing::run_ranks;
using Clock = std::chrono::steady_clock;

// What a rank brings: many shapes and types, views, empty tensors.
std::vector<at::Tensor> tensors_of(int rank) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<std::uint64_t>(rank) + 7);
  const auto random = [&](at::IntArrayRef shape) { return at::randn(shape, generator); };
  return {random({3, 4}),
          random({}),
          random({0}),
          random({5, 7}).t(),
          random({8, 8}).slice(1, 1, 6, 2),
          random({2, 3}).to(at::kDouble),
          random({1}).to(at::kDouble),
          random({17}),
          (random({4, 2}) * 100).to(at::kLong)};
}

TEST(Group, AloneChangesNothing) {
  Group& group = Group::alone();
  EXPECT_TRUE(group.is_first());
  EXPECT_EQ(group.size(), 1);
  const at::Tensor x = at::arange(5, at::kFloat), before = x.clone();
  group.sum({x});
  EXPECT_TRUE(at::equal(x, before));
  EXPECT_EQ(group.gather(4.5), std::vector<double>{4.5});
  group.check();
  group.leave();
  EXPECT_TRUE(group.fail("line"));
}

TEST(Group, SumsOverTwoAndThreeRanks) {
  for (const int size : {2, 3}) {
    std::vector<std::vector<at::Tensor>> results(static_cast<std::size_t>(size));
    const auto errors = run_ranks(size, [&](Group& group) {
      EXPECT_EQ(group.size(), size);
      EXPECT_EQ(group.is_first(), group.rank() == 0);
      std::vector<at::Tensor> tensors = tensors_of(group.rank());
      for (at::Tensor& tensor : tensors) {
        if (tensor.is_floating_point()) tensor.set_requires_grad(true);
      }
      group.sum(tensors);
      results[static_cast<std::size_t>(group.rank())] = tensors;
    });
    EXPECT_EQ(errors, no_errors(size));
    std::vector<std::vector<at::Tensor>> inputs;
    for (int rank = 0; rank < size; ++rank) inputs.push_back(tensors_of(rank));
    for (std::size_t i = 0; i < inputs[0].size(); ++i) {
      at::Tensor expected = inputs[0][i].to(at::kDouble);
      for (int rank = 1; rank < size; ++rank) {
        expected = expected + inputs[static_cast<std::size_t>(rank)][i].to(at::kDouble);
      }
      ASSERT_EQ(results[0].size(), inputs[0].size());
      EXPECT_EQ(results[0][i].sizes(), expected.sizes());
      EXPECT_EQ(results[0][i].scalar_type(), inputs[0][i].scalar_type());
      EXPECT_TRUE(at::allclose(results[0][i].detach().to(at::kDouble), expected, 1e-6, 1e-6)) << i;
      for (const auto& of_rank : results) {
        EXPECT_TRUE(at::equal(of_rank[i], results[0][i])) << i;  // to the bit
      }
    }
  }
}

// A tensor beyond a bucket between small ones.
TEST(Group, SumsWhatIsLarge) {
  const auto errors = run_ranks(2, [&](Group& group) {
    const std::vector<at::Tensor> tensors = {at::ones({2}), at::full({(8 << 20) + 3}, 1.0F),
                                             at::ones({3})};
    for (const at::Tensor& tensor : tensors) tensor.mul_(group.rank() + 1);
    group.sum(tensors);
    for (const at::Tensor& tensor : tensors) {
      EXPECT_EQ(tensor.min().item<float>(), 3);
      EXPECT_EQ(tensor.max().item<float>(), 3);
    }
  });
  EXPECT_EQ(errors, no_errors(2));
}

TEST(Group, GathersByRankAndKeepsWhatIsNotFinite) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  const auto errors = run_ranks(3, [&](Group& group) {
    const std::vector<double> values = group.gather(group.rank() * 0.1);
    EXPECT_EQ(values, (std::vector<double>{0, 0.1, 0.2}));
    const at::Tensor x = at::zeros({3});
    if (group.rank() == 1) x[0] = std::numeric_limits<float>::quiet_NaN();
    if (group.rank() == 2) x[1] = kInf;
    group.sum({x});
    EXPECT_TRUE(std::isnan(x[0].item<double>()));
    EXPECT_EQ(x[1].item<double>(), kInf);
    EXPECT_EQ(x[2].item<double>(), 0);
  });
  EXPECT_EQ(errors, no_errors(3));
}

// Uneven ranks wait for each other, far longer than a rank may be silent.
TEST(Group, WaitsForASlowRank) {
  const auto errors = run_ranks(2,
                                [&](Group& group) {
                                  if (group.rank() == 1)
                                    std::this_thread::sleep_for(milliseconds(1200));
                                  EXPECT_EQ(group.gather(1), (std::vector<double>{1, 1}));
                                },
                                {.timeout = milliseconds(700)});
  EXPECT_EQ(errors, no_errors(2));
}

TEST(Group, NamesARankThatDoesNotCome) {
  try {
    join(launch_of(0, 3, free_port()), {.meeting = milliseconds(300)});
    FAIL() << "met nobody";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kFailed);
    EXPECT_NE(std::string(error.what()).find("rank 1, 2: expected to come within 0.3 s"),
              std::string::npos)
        << error.what();
  }
  try {
    join(launch_of(1, 2, free_port()), {.meeting = milliseconds(300)});
    FAIL() << "found a store";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("the store of rank 0 at localhost"), std::string::npos)
        << error.what();
  }
}

// A rank's own error ends the others at once, wherever they are, and only it is to be printed.
TEST(Group, AnErrorOfOneEndsAll) {
  std::vector<int> is_first(3, -1);
  const auto start = Clock::now();
  const int port = free_port();
  std::vector<std::string> errors(3);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 3; ++rank) {
    ranks.emplace_back([&, rank] {
      const auto at = static_cast<std::size_t>(rank);
      const auto group = join(launch_of(rank, 3, port), {});
      try {
        group->gather(0);
        if (rank == 2) throw Error(ExitCode::kBadInput, {"document 7", "an answer", "none", ""});
        group->gather(0);
        ADD_FAILURE() << "went on";
      } catch (const Error& error) {
        errors[at] = error.what();
        is_first[at] = group->fail(error.what());
      }
    });
  }
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(is_first, (std::vector<int>{0, 0, 1}));
  for (const std::string& error : errors) {
    EXPECT_NE(error.find("document 7: expected an answer"), std::string::npos) << error;
  }
  EXPECT_NE(errors[0].find("rank 2: "), std::string::npos) << errors[0];
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(8));
}

// The same error on all ranks, as of a bad option: one line.
TEST(Group, OneRankPrintsACommonError) {
  std::atomic<int> num_printed = 0;
  const int port = free_port();
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 3; ++rank) {
    ranks.emplace_back([&, rank] {
      const auto group = join(launch_of(rank, 3, port), {});
      if (group->fail("a bad option")) ++num_printed;
    });
  }
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(num_printed, 1);
}

// A rank that falls silent, its connections closed, is named by the others.
TEST(Group, NamesARankThatIsGone) {
  const int port = free_port();
  std::vector<std::string> errors(3);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 3; ++rank) {
    ranks.emplace_back([&, rank] {
      const auto group = join(launch_of(rank, 3, port), {.timeout = milliseconds(1000)});
      group->gather(0);
      if (rank == 1) return;  // without a word
      try {
        group->gather(0);
        ADD_FAILURE() << "went on";
      } catch (const Error& error) {
        errors[static_cast<std::size_t>(rank)] = error.what();
        group->fail(error.what());
      }
    });
  }
  for (std::thread& rank : ranks) rank.join();
  for (const int rank : {0, 2}) {
    const std::string& error = errors[static_cast<std::size_t>(rank)];
    EXPECT_NE(error.find("rank 1: expected a sign of life"), std::string::npos) << error;
  }
}

// It lives, but the others wait for it in vain.
TEST(Group, NamesARankThatIsStuck) {
  std::atomic<bool> ended = false;
  const auto errors = run_ranks(2,
                                [&](Group& group) {
                                  group.gather(0);
                                  if (group.rank() == 1) {
                                    while (!ended) std::this_thread::sleep_for(milliseconds(10));
                                    return;
                                  }
                                  try {
                                    group.gather(0);
                                  } catch (...) {
                                    ended = true;
                                    throw;
                                  }
                                },
                                {.timeout = milliseconds(800), .longest_wait = milliseconds(300)});
  EXPECT_NE(errors[0].find("rank 1: expected at every sum"), std::string::npos) << errors[0];
  EXPECT_NE(errors[0].find("it lives but does not come"), std::string::npos) << errors[0];
}

}  // namespace
}  // namespace loza
