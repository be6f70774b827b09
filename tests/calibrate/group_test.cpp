// Calibration by several ranks against one process.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <vector>

#include "loza/calibrate/calibrate.h"
#include "tests/calibrate/far_model.h"
#include "tests/parallel/ranks.h"
#include "tests/support/temp_folder.h"

namespace loza {
namespace {

Transformer far_model() {
  const testing::TempFolder folder;
  testing::FarModel{}.write(folder / "model");
  return Transformer::load(Checkpoint(folder / "model"), at::kFloat);
}

void expect_close(const std::vector<double>& a, const std::vector<double>& b, double size) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < b.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5 * size) << i;
}

TEST(CalibrateGroup, GatesAreThoseOfOneProcess) {
  const Transformer model = far_model();
  const DrawDocument draw = [](std::uint64_t seed, std::int64_t index) {
    return testing::FarModel::document(seed, index);
  };
  int num_runs = 0;
  for (const char* criterion : {"alpha", "nll", "nll-mirror", "random"}) {
    for (const std::int64_t documents_per_step : {1, 3}) {
      const CalibrateOptions options{.criterion = criterion,
                                     .num_seeds = 2,
                                     .pattern = {8, 1, 2},
                                     .num_steps = 3,
                                     .documents_per_step = documents_per_step};
      const Calibration alone = calibrate(model, draw, options);
      for (const int size : {2, 3}) {
        std::vector<Calibration> of_rank(static_cast<std::size_t>(size));
        const auto errors = testing::run_ranks(size, [&](Group& group) {
          of_rank[static_cast<std::size_t>(group.rank())] = calibrate(model, draw, options, group);
        });
        EXPECT_EQ(errors, testing::no_errors(size));
        for (const Calibration& ours : of_rank) {
          SCOPED_TRACE(
              fmt::format("{}, {} documents, {} ranks", criterion, documents_per_step, size));
          ASSERT_EQ(ours.seeds.size(), 2u);
          EXPECT_EQ(ours.data_hash(), alone.data_hash());
          EXPECT_EQ(ours.num_tokens(), alone.num_tokens());
          expect_close(ours.alpha, alone.alpha, 1);
          for (std::size_t s = 0; s < 2; ++s) {
            expect_close(ours.seeds[s].losses, alone.seeds[s].losses, 1e-1);
            EXPECT_EQ(ours.seeds[s].alpha, of_rank[0].seeds[s].alpha);  // to the bit
          }
        }
        ++num_runs;
      }
    }
  }
  std::printf("%d calibrations of several ranks equal one process's\n", num_runs);
}

// A batch is the mean over its documents, as far as the gates have not moved.
TEST(CalibrateGroup, ABatchIsAMean) {
  const Transformer model = far_model();
  const DrawDocument draw = [](std::uint64_t seed, std::int64_t index) {
    return testing::FarModel::document(seed, index);
  };
  CalibrateOptions options{
      .pattern = {8, 1, 2}, .num_steps = 1, .documents_per_step = 3, .start = 0.5};
  const double batch = calibrate(model, draw, options).seeds[0].losses[0];
  options.documents_per_step = 1;
  double sum = 0;
  for (std::int64_t i = 0; i < 3; ++i) {
    const DrawDocument one = [&](std::uint64_t seed, std::int64_t) { return draw(seed, i); };
    sum += calibrate(model, one, options).seeds[0].losses[0];
  }
  EXPECT_NEAR(batch, sum / 3, 1e-6 * std::abs(sum));
}

}  // namespace
}  // namespace loza
