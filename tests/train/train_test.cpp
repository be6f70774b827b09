#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "loza/base/error.h"
#include "loza/base/random.h"
#include "loza/train/loop.h"
#include "loza/train/snapshot.h"
#include "tests/support/temp_folder.h"

namespace loza {
namespace {

using testing::bytes_of;
using testing::TempFolder;

TEST(Schedule, RisesStaysAndFalls) {
  Schedule schedule{.peak = 2, .num_steps = 20, .warmup_steps = 4, .decay_steps = 8};
  for (std::int64_t step = 0; step < 4; ++step) {
    EXPECT_DOUBLE_EQ(schedule.at(step), 0.5 * static_cast<double>(step + 1));
  }
  for (std::int64_t step = 4; step < 20; ++step) EXPECT_EQ(schedule.at(step), 2);

  schedule.decay = Schedule::Decay::kLinear;
  schedule.final_ratio = 0.2;
  EXPECT_EQ(schedule.at(11), 2);
  EXPECT_EQ(schedule.at(12), 2);
  EXPECT_DOUBLE_EQ(schedule.at(16), 2 * 0.6);
  EXPECT_DOUBLE_EQ(schedule.at(19), 2 * (0.2 + 0.8 / 8));

  schedule.decay = Schedule::Decay::kCosine;
  EXPECT_DOUBLE_EQ(schedule.at(12), 2);
  EXPECT_NEAR(schedule.at(16), 2 * 0.6, 1e-12);
  EXPECT_NEAR(schedule.at(14), 2 * (0.2 + 0.8 * 0.5 * (1 + std::sqrt(0.5))), 1e-12);
  EXPECT_ANY_THROW(schedule.at(20));
  EXPECT_ANY_THROW(schedule.at(-1));
}

// A small problem: documents of 6 random ids, a loss of two parameters that depends on all of
// them.
struct Problem {
  at::Tensor weight = at::linspace(-1, 1, 12).view({3, 4}).requires_grad_();
  at::Tensor bias = at::zeros({4}).requires_grad_();

  static TokenizedDocument draw(std::uint64_t seed, std::int64_t index) {
    Random random(Random(seed).next() + static_cast<std::uint64_t>(index));
    TokenizedDocument document;
    for (int i = 0; i < 6; ++i) document.ids.push_back(random.below(100));
    return document;
  }
  at::Tensor loss(const TokenizedDocument& document) const {
    const at::Tensor x = torch::tensor(document.ids).to(at::kFloat).view({2, 3}) / 50 - 1;
    return (at::tanh(at::matmul(x, weight) + bias) - 0.3).square().mean();
  }
  NamedTensors parameters() const { return {{"weight", weight}, {"bias", bias}}; }
};

TrainOptions options_of(std::int64_t num_steps) {
  TrainOptions options;
  options.seed = 3;
  options.documents_per_step = 2;
  options.clip_norm = 0.1;
  options.optimizer.weight_decay = 0.1;
  options.schedule = {.peak = 0.05,
                      .num_steps = num_steps,
                      .warmup_steps = 5,
                      .decay = Schedule::Decay::kCosine,
                      .decay_steps = 30};
  return options;
}

Trainer trainer_of(const Problem& problem, const TrainOptions& options) {
  return Trainer(
      problem.parameters(), options, Problem::draw,
      one_by_one([&problem](const TokenizedDocument& document) { return problem.loss(document); }));
}

bool bit_equal(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         std::memcmp(a.data_ptr(), b.data_ptr(), a.nbytes()) == 0;
}

TEST(Trainer, LearnsAndReports) {
  Problem problem;
  Trainer trainer = trainer_of(problem, options_of(200));
  const StepReport first = trainer.step();
  EXPECT_EQ(first.step, 0);
  EXPECT_EQ(first.num_tokens, 12);
  EXPECT_DOUBLE_EQ(first.lr, 0.01);
  EXPECT_GT(first.grad_norm, 0.1);
  StepReport last;
  std::int64_t seen = 1;
  trainer.run("learning", [&](const StepReport& step) {
    EXPECT_EQ(step.step, seen++);
    last = step;
  });
  EXPECT_TRUE(trainer.done());
  EXPECT_EQ(seen, 200);
  EXPECT_LT(last.loss, 0.1 * first.loss);
}

TEST(Trainer, AveragesDocumentsAndClips) {
  // One parameter, losses 1*w and 3*w: the mean gradient is 2, clipped to 0.5.
  at::Tensor w = at::ones({1}).requires_grad_();
  TrainOptions options;
  options.documents_per_step = 2;
  options.clip_norm = 0.5;
  options.schedule = {.peak = 0.1, .num_steps = 2};
  double seen_grad = 0;
  Trainer trainer(
      {{"w", w}}, options,
      [](std::uint64_t, std::int64_t index) {
        TokenizedDocument document;
        document.ids = {index};
        return document;
      },
      one_by_one([&](const TokenizedDocument& document) {
        return w.sum() * (document.ids[0] % 2 == 0 ? 1.0 : 3.0);
      }));
  const StepReport report = trainer.step();
  seen_grad = w.grad().item<double>();
  EXPECT_DOUBLE_EQ(report.loss, 2);
  EXPECT_DOUBLE_EQ(report.grad_norm, 2);
  EXPECT_NEAR(seen_grad, 0.5, 1e-6);
  EXPECT_NEAR(w.item<double>(), 0.9, 1e-5);  // Adam's first step is lr * sign
}

TEST(Trainer, ResumesBitEqual) {
  const TempFolder folder;
  Problem whole;
  Trainer uninterrupted = trainer_of(whole, options_of(40));
  std::vector<double> losses;
  uninterrupted.run("whole", [&](const StepReport& step) { losses.push_back(step.loss); });

  Problem before;
  Trainer first = trainer_of(before, options_of(40));
  std::vector<double> resumed_losses;
  for (int i = 0; i < 20; ++i) resumed_losses.push_back(first.step().loss);
  first.save(folder.path());

  Problem after;
  {
    const at::NoGradGuard no_grad;
    after.weight.fill_(99);
  }
  Trainer second = trainer_of(after, options_of(40));
  ASSERT_EQ(latest_snapshot(folder.path()), snapshot_folder(folder.path(), 20));
  second.resume(*latest_snapshot(folder.path()));
  EXPECT_EQ(second.next_step(), 20);
  second.run("rest", [&](const StepReport& step) { resumed_losses.push_back(step.loss); });

  EXPECT_EQ(losses, resumed_losses);
  EXPECT_TRUE(bit_equal(whole.weight, after.weight));
  EXPECT_TRUE(bit_equal(whole.bias, after.bias));
  EXPECT_FALSE(bit_equal(whole.weight, before.weight));
}

TEST(Trainer, ResumeRefusesAnotherRun) {
  const TempFolder folder;
  Problem problem;
  Trainer trainer = trainer_of(problem, options_of(40));
  trainer.step();
  trainer.save(folder.path());
  const auto snapshot = *latest_snapshot(folder.path());

  TrainOptions other = options_of(40);
  other.seed = 4;
  EXPECT_THROW(trainer_of(problem, other).resume(snapshot), Error);
  other = options_of(40);
  other.documents_per_step = 1;
  EXPECT_THROW(trainer_of(problem, other).resume(snapshot), Error);
  other = options_of(40);
  other.schedule.peak *= 2;
  EXPECT_THROW(trainer_of(problem, other).resume(snapshot), Error);
  other = options_of(40);
  other.data_name = "lines";
  EXPECT_THROW(trainer_of(problem, other).resume(snapshot), Error);

  Problem wider;
  wider.bias = at::zeros({1, 4}).requires_grad_();
  EXPECT_THROW(trainer_of(wider, options_of(40)).resume(snapshot), Error);
  Problem wide;
  wide.bias = at::zeros({4}, at::kDouble).requires_grad_();
  EXPECT_THROW(trainer_of(wide, options_of(40)).resume(snapshot), Error);
  EXPECT_NO_THROW(trainer_of(problem, options_of(40)).resume(snapshot));
}

// A run whose losses are what the test says, by step.
class ScriptedRun {
 public:
  explicit ScriptedRun(std::vector<double> scales) : scales_(std::move(scales)) {}

  Trainer trainer() {
    TrainOptions options;
    options.schedule = {.peak = 0.1, .num_steps = static_cast<std::int64_t>(scales_.size())};
    return Trainer(
        {{"w", w}}, options,
        [](std::uint64_t, std::int64_t index) {
          TokenizedDocument document;
          document.ids = {index};
          return document;
        },
        one_by_one([this](const TokenizedDocument& document) {
          return w.sum() * scales_[static_cast<std::size_t>(document.ids[0])];
        }));
  }

  at::Tensor w = at::ones({2}).requires_grad_();

 private:
  std::vector<double> scales_;
};

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

TEST(Trainer, SkipsAndCountsBadSteps) {
  ScriptedRun run({1, kNaN, kInf, 1, -kInf, kNaN, 1});
  Trainer trainer = run.trainer();
  std::vector<bool> skipped;
  while (!trainer.done()) {
    const at::Tensor before = run.w.detach().clone();
    const StepReport step = trainer.step();
    skipped.push_back(step.skipped);
    EXPECT_EQ(step.skipped, bit_equal(before, run.w)) << step.step;
  }
  EXPECT_EQ(skipped, (std::vector<bool>{false, true, true, false, true, true, false}));
  EXPECT_EQ(trainer.num_skipped(), 4);
  EXPECT_TRUE(at::isfinite(run.w).all().item<bool>());
}

TEST(Trainer, AbortsAfterThreeInARow) {
  ScriptedRun run({1, kNaN, kNaN, kNaN, 1});
  Trainer trainer = run.trainer();
  for (int i = 0; i < 3; ++i) trainer.step();
  try {
    trainer.step();
    FAIL() << "went on";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kFailed);
    EXPECT_NE(std::string(error.what()).find("3 times in a row"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("2 of 2 elements of 'w'"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("step 3"), std::string::npos);
  }
  EXPECT_TRUE(at::isfinite(run.w).all().item<bool>());
}

TEST(Trainer, SkipsAGradientThatIsNotFinite) {
  // sqrt at 0: a finite loss with an infinite gradient.
  at::Tensor w = at::zeros({1}).requires_grad_();
  TrainOptions options;
  options.schedule = {.peak = 0.1, .num_steps = 1};
  Trainer trainer({{"w", w}}, options, Problem::draw,
                  one_by_one([&](const TokenizedDocument&) { return at::sqrt(w).sum(); }));
  const StepReport step = trainer.step();
  EXPECT_EQ(step.loss, 0);
  EXPECT_TRUE(step.skipped);
  EXPECT_EQ(w.item<double>(), 0);
}

Snapshot sample_snapshot(std::int64_t step) {
  Snapshot snapshot;
  snapshot.tensors = {{"parameter.w", at::full({64, 64}, static_cast<double>(step))},
                      {"optimizer.w.step", at::full({1}, step, at::kLong)}};
  snapshot.state = {{"step", step}};
  return snapshot;
}

TEST(Snapshot, FindsEveryFlippedByte) {
  const TempFolder folder;
  write_snapshot(folder / "step-00000001", sample_snapshot(1));
  EXPECT_NO_THROW(read_snapshot(folder / "step-00000001"));
  Random random(1);
  int found = 0, flips = 0;
  for (const char* name : {"tensors.safetensors", "state.json", "manifest.json"}) {
    const auto file = std::filesystem::path("step-00000001") / name;
    const std::string good = bytes_of(folder.path() / file);
    for (int i = 0; i < 40; ++i, ++flips) {
      std::string bad = good;
      const auto at = static_cast<std::size_t>(random.below(static_cast<std::int64_t>(bad.size())));
      bad[at] = static_cast<char>(bad[at] ^ (1 << random.below(8)));
      folder.write(file.string(), bad);
      try {
        read_snapshot(folder / "step-00000001");
        ADD_FAILURE() << name << ": byte " << at;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kBadInput);
        ++found;
      }
    }
    folder.write(file.string(), good);
  }
  EXPECT_EQ(found, flips);
  std::printf("%d of %d flipped bytes found\n", found, flips);
  EXPECT_NO_THROW(read_snapshot(folder / "step-00000001"));
  std::filesystem::remove(folder / "step-00000001/state.json");
  EXPECT_THROW(read_snapshot(folder / "step-00000001"), Error);
}

TEST(Snapshot, LatestIsTheHighestCompleteStep) {
  const TempFolder folder;
  EXPECT_EQ(latest_snapshot(folder / "nothing"), std::nullopt);
  EXPECT_EQ(latest_snapshot(folder.path()), std::nullopt);
  for (const std::int64_t step : {5, 120, 40}) {
    write_snapshot(snapshot_folder(folder.path(), step), sample_snapshot(step));
  }
  std::filesystem::create_directories(folder / "step-00000999.part123");
  std::filesystem::create_directories(folder / "other-00000999");
  folder.write("step-00000999", "a file");
  EXPECT_EQ(latest_snapshot(folder.path()), snapshot_folder(folder.path(), 120));
  EXPECT_THROW(write_snapshot(snapshot_folder(folder.path(), 120), sample_snapshot(120)), Error);
}

TEST(Snapshot, RemovesOldOnesAndUnfinishedOnesAlone) {
  const TempFolder folder;
  for (const std::int64_t step : {1, 2, 3}) {
    write_snapshot(snapshot_folder(folder.path(), step), sample_snapshot(step));
  }
  folder.write("step-00000002.part12/tensors.safetensors", "half");
  folder.write("step-00000004.part345/state.json", "{");
  for (const char* kept : {"step-one.part1/a", "other.part1/a", "step-00000009", "log.jsonl"}) {
    folder.write(kept, "mine");
  }
  remove_old_snapshots(folder.path(), 2);
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    names.insert(entry.path().filename().string());
  }
  EXPECT_EQ(names, (std::set<std::string>{"step-00000002", "step-00000003", "step-one.part1",
                                          "other.part1", "step-00000009", "log.jsonl"}));
  EXPECT_NO_THROW(read_snapshot(snapshot_folder(folder.path(), 3)));
}

// Writes snapshots until killed.
[[noreturn]] void write_forever(const std::filesystem::path& run) {
  for (std::int64_t step = 1;; ++step) {
    write_snapshot(snapshot_folder(run, step), sample_snapshot(step));
  }
}

TEST(Snapshot, SurvivesBeingKilled) {
  Random random(7);
  int resumed = 0;
  for (int kill = 0; kill < 30; ++kill) {
    const TempFolder folder;
    write_snapshot(snapshot_folder(folder.path(), 0), sample_snapshot(0));
    const pid_t child = ::fork();
    if (child == 0) write_forever(folder.path());
    ASSERT_GT(child, 0);
    std::this_thread::sleep_for(std::chrono::microseconds(2000 + random.below(40'000)));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    const auto latest = latest_snapshot(folder.path());
    ASSERT_TRUE(latest);
    const Snapshot snapshot = read_snapshot(*latest);
    const auto step = snapshot.state["step"].get<std::int64_t>();
    EXPECT_EQ(*latest, snapshot_folder(folder.path(), step));
    for (const auto& [name, tensor] : snapshot.tensors) {
      if (name == "parameter.w") {
        EXPECT_TRUE((tensor == static_cast<double>(step)).all().item<bool>());
      }
    }
    ++resumed;
  }
  std::printf("%d of 30 kills left a snapshot to resume from\n", resumed);
  EXPECT_EQ(resumed, 30);
}

}  // namespace
}  // namespace loza
