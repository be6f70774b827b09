// Trainers of several ranks against one: the same steps, whatever the number of ranks.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "loza/base/error.h"
#include "loza/base/random.h"
#include "loza/train/loop.h"
#include "loza/train/snapshot.h"
#include "tests/parallel/ranks.h"
#include "tests/support/temp_folder.h"

namespace loza {
namespace {

using testing::no_errors;
using testing::run_ranks;
using testing::TempFolder;

TokenizedDocument group_document(std::uint64_t seed, std::int64_t index) {
  Random random(Random(seed).next() + static_cast<std::uint64_t>(index));
  TokenizedDocument document;
  const std::int64_t length = 4 + random.below(12);
  for (std::int64_t i = 0; i < length; ++i) document.ids.push_back(random.below(100));
  document.kind = index % 3 == 0 ? "third" : "other";
  return document;
}

// Two weights for every document, one that few documents reach, and one that none does.
struct GroupProblem {
  at::Tensor weight = at::linspace(-1, 1, 12).view({4, 3}).t().detach().requires_grad_();
  at::Tensor bias = at::zeros({4}).requires_grad_();
  at::Tensor rare = at::ones({2, 2}).requires_grad_();
  at::Tensor unused = at::ones({3}).requires_grad_();

  at::Tensor loss(const TokenizedDocument& document) const {
    const at::Tensor x = torch::tensor(document.ids).to(at::kFloat).slice(0, 0, 3) / 50 - 1;
    at::Tensor loss = (at::tanh(at::matmul(x, weight) + bias) - 0.3).square().mean();
    if (document.kind == "third") loss = loss + (rare * x[0]).square().mean();
    return loss;
  }
  NamedTensors parameters() const {
    return {{"weight", weight}, {"bias", bias}, {"rare", rare}, {"unused", unused}};
  }
};

TrainOptions group_options(std::int64_t num_documents) {
  TrainOptions options;
  options.seed = 3;
  options.documents_per_step = num_documents;
  options.tokens_per_pass = 25;
  options.clip_norm = 0.1;
  options.optimizer.weight_decay = 0.1;
  options.schedule = {.peak = 0.05,
                      .num_steps = 6,
                      .warmup_steps = 2,
                      .decay = Schedule::Decay::kCosine,
                      .decay_steps = 4};
  return options;
}

Trainer group_trainer(const GroupProblem& problem, const TrainOptions& options, Group& group) {
  return Trainer(
      problem.parameters(), options, group_document,
      one_by_one([&problem](const TokenizedDocument& document) { return problem.loss(document); }),
      {}, group);
}

struct RunResult {
  std::vector<StepReport> steps;
  std::vector<at::Tensor> weights;
};

RunResult run_steps(const TrainOptions& options, Group& group) {
  GroupProblem problem;
  Trainer trainer = group_trainer(problem, options, group);
  RunResult result;
  trainer.run("steps", [&](const StepReport& step) { result.steps.push_back(step); });
  for (const auto& [name, tensor] : problem.parameters()) {
    result.weights.push_back(tensor.detach().clone());
  }
  return result;
}

void expect_close(double a, double b) { EXPECT_NEAR(a, b, 1e-5 * std::abs(b)); }

void expect_same_run(const RunResult& ours, const RunResult& expected) {
  ASSERT_EQ(ours.steps.size(), expected.steps.size());
  for (std::size_t i = 0; i < expected.steps.size(); ++i) {
    const StepReport &a = ours.steps[i], &b = expected.steps[i];
    EXPECT_EQ(a.step, b.step);
    EXPECT_EQ(a.num_tokens, b.num_tokens);
    EXPECT_EQ(a.lr, b.lr);
    expect_close(a.loss, b.loss);
    expect_close(a.grad_norm, b.grad_norm);
    ASSERT_EQ(a.loss_by_kind.size(), b.loss_by_kind.size());
    for (const auto& [kind, loss] : b.loss_by_kind) expect_close(a.loss_by_kind.at(kind), loss);
  }
  for (std::size_t i = 0; i < expected.weights.size(); ++i) {
    EXPECT_TRUE(at::allclose(ours.weights[i], expected.weights[i], 1e-5, 1e-7)) << i;
  }
}

// As many documents as ranks, a number that does not divide, and fewer than ranks.
TEST(TrainerGroup, StepsAreThoseOfOneProcess) {
  int num_runs = 0;
  for (const std::int64_t num_documents : {1, 2, 3, 5, 8}) {
    const TrainOptions options = group_options(num_documents);
    const RunResult alone = run_steps(options, Group::alone());
    ASSERT_EQ(alone.steps.size(), 6u);
    EXPECT_NE(alone.steps[0].loss, alone.steps[5].loss);
    EXPECT_TRUE(at::equal(alone.weights[3], at::ones({3})));  // no gradient, no decay
    for (const int size : {2, 3}) {
      std::vector<RunResult> of_rank(static_cast<std::size_t>(size));
      const auto errors = run_ranks(size, [&](Group& group) {
        of_rank[static_cast<std::size_t>(group.rank())] = run_steps(options, group);
      });
      EXPECT_EQ(errors, no_errors(size));
      for (const RunResult& run : of_rank) {
        SCOPED_TRACE(fmt::format("{} documents, {} ranks", num_documents, size));
        expect_same_run(run, alone);
        for (std::size_t i = 0; i < run.weights.size(); ++i) {
          EXPECT_TRUE(at::equal(run.weights[i], of_rank[0].weights[i])) << i;  // to the bit
        }
      }
      ++num_runs;
    }
  }
  std::printf("%d runs of several ranks equal one process's\n", num_runs);
}

// A document that breaks on one rank is a skipped step on all.
TEST(TrainerGroup, SkipsTogether) {
  std::vector<std::vector<bool>> skipped(2);
  const auto errors = run_ranks(2, [&](Group& group) {
    at::Tensor w = at::ones({2}).requires_grad_();
    TrainOptions options = group_options(2);
    Trainer trainer({{"w", w}}, options, group_document, one_by_one([&](const TokenizedDocument&) {
                      const bool is_bad = group.rank() == 1 && trainer.next_step() % 2 == 1;
                      return w.sum() * (is_bad ? std::numeric_limits<double>::quiet_NaN() : 1.0);
                    }),
                    {}, group);
    while (!trainer.done()) {
      skipped[static_cast<std::size_t>(group.rank())].push_back(trainer.step().skipped);
    }
    EXPECT_EQ(trainer.num_skipped(), 3);
    EXPECT_TRUE(at::isfinite(w).all().item<bool>());
  });
  EXPECT_EQ(errors, no_errors(2));
  EXPECT_EQ(skipped[0], (std::vector<bool>{false, true, false, true, false, true}));
  EXPECT_EQ(skipped[1], skipped[0]);
}

// Three steps of `before` ranks, a snapshot, three steps of `after` ranks.
TEST(TrainerGroup, ResumesWithAnotherNumberOfRanks) {
  const TrainOptions options = group_options(5);
  const RunResult whole = run_steps(options, Group::alone());
  const auto in_group = [](int size, const std::function<void(Group&)>& body) {
    if (size == 1) return body(Group::alone());
    EXPECT_EQ(run_ranks(size, body), no_errors(size));
  };
  for (const auto& [before, after] : {std::pair{1, 2}, {2, 1}, {2, 3}}) {
    const TempFolder folder;
    in_group(before, [&](Group& group) {
      GroupProblem problem;
      Trainer trainer = group_trainer(problem, options, group);
      for (int i = 0; i < 3; ++i) trainer.step();
      trainer.save(folder.path());
      group.gather(0);
      EXPECT_EQ(latest_snapshot(folder.path()), snapshot_folder(folder.path(), 3));
    });
    in_group(after, [&](Group& group) {
      GroupProblem problem;
      {
        const at::NoGradGuard no_grad;
        problem.weight.fill_(99);
      }
      Trainer trainer = group_trainer(problem, options, group);
      trainer.resume(snapshot_folder(folder.path(), 3));
      RunResult rest;
      rest.steps.assign(whole.steps.begin(), whole.steps.begin() + 3);
      trainer.run("rest", [&](const StepReport& step) { rest.steps.push_back(step); });
      for (const auto& [name, tensor] : problem.parameters()) rest.weights.push_back(tensor);
      SCOPED_TRACE(fmt::format("{} then {} ranks", before, after));
      expect_same_run(rest, whole);
    });
  }
}

// Ranks that would train different things do not begin.
TEST(TrainerGroup, RefusesRanksThatDiffer) {
  const auto errors_of = [](const std::function<void(Group&, GroupProblem&, TrainOptions&)>& differ,
                            bool resumes = false) {
    const TempFolder folder;
    if (resumes) {
      GroupProblem problem;
      Trainer trainer = group_trainer(problem, group_options(2), Group::alone());
      trainer.step();
      trainer.save(folder.path());
    }
    return run_ranks(2, [&](Group& group) {
      GroupProblem problem;
      TrainOptions options = group_options(2);
      if (group.rank() == 1) differ(group, problem, options);
      Trainer trainer = group_trainer(problem, options, group);
      if (resumes && group.rank() == 0) trainer.resume(snapshot_folder(folder.path(), 1));
      trainer.step();
    });
  };
  const auto expect_said = [](const std::vector<std::string>& errors, const std::string& what) {
    for (const std::string& error : errors) {
      EXPECT_NE(error.find("rank 1: expected rank 0's " + what), std::string::npos) << error;
    }
  };
  expect_said(errors_of([](Group&, GroupProblem&, TrainOptions& o) { o.seed = 4; }),
              "run's options");
  expect_said(errors_of([](Group&, GroupProblem& p, TrainOptions&) {
                p.bias = at::ones({4}).requires_grad_();
              }),
              "norm");
  expect_said(errors_of([](Group&, GroupProblem&, TrainOptions&) {}, /*resumes=*/true), "step");
}

}  // namespace
}  // namespace loza
