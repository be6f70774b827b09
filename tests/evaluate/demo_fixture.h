#pragma once

#include <fmt/format.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "loza/base/random.h"
#include "loza/evaluate/demo_report.h"

namespace loza {

// `hits` right answers of `num_answers`, each of two tokens, at `nll` nats an answer.
inline DocumentScore answers_score(int hits, int num_answers, double nll) {
  DocumentScore score;
  for (int i = 0; i < num_answers; ++i) score.units.push_back({true, i < hits, 2, nll});
  return score;
}

inline DocumentScore text_score(double nll_per_token, int num_stretches) {
  DocumentScore score;
  Random random(5);
  for (int i = 0; i < num_stretches; ++i) {
    const double difficulty = random.uniform();
    score.units.push_back({false, false, kStretchLen, (nll_per_token + difficulty) * kStretchLen});
  }
  return score;
}

// A report like one of a real run, with chosen numbers.
inline DemoReport sample_demo_report() {
  constexpr int kNumModules = 30;
  const std::vector<EvalCase> cases = {
      {"niah", 2048, 0, {}}, {"niah", 4096, 0, {}}, {"noise", 4096, 0, {}}, {"ppl", 4096, 0, {}}};
  struct Subject {
    const char* name;
    std::vector<int> hits;
    double text_nll;
  };
  const std::vector<Subject> subjects = {{"dense", {21, 15, 25}, 2.182},
                                         {"calibrated", {22, 14, 26}, 2.188},
                                         {"nll", {12, 5, 10}, 2.206},
                                         {"interleaved", {10, 5, 7}, 2.215},
                                         {"interleaved, odd", {9, 4, 6}, 2.243},
                                         {"random 0", {12, 4, 9}, 2.22},
                                         {"random 1", {11, 3, 5}, 2.23},
                                         {"random 2", {20, 14, 21}, 2.21},
                                         {"all streaming", {8, 3, 4}, 2.257}};
  std::vector<SubjectScores> scores;
  for (const Subject& subject : subjects) {
    std::vector<bool> streaming(kNumModules);
    for (std::size_t i = 0; i < streaming.size(); ++i) {
      streaming[i] = subject.name != std::string("dense") && i % 2 == 0;
    }
    SubjectScores made{
        subject.name, "SmolLM2", AttentionPlan::from_choice(streaming, {}, subject.name), {}};
    for (const int hits : subject.hits) made.scores.push_back(answers_score(hits, 42, 1.5));
    made.scores.push_back(text_score(subject.text_nll, 60));
    scores.push_back(std::move(made));
  }

  DemoReport report;
  report.model = "SmolLM2-135M-Instruct";
  report.facts = {{"parameters", "134.5 M"}, {"weights", "bf16"}, {"threads", "2"}};
  Random random(1);
  for (const char* criterion : {"alpha", "nll"}) {
    DemoReport::Gates gates;
    gates.criterion = criterion;
    const int num_seeds = criterion == std::string("alpha") ? 2 : 1;
    gates.seeds.resize(static_cast<std::size_t>(num_seeds));
    for (int i = 0; i < kNumModules; ++i) {
      gates.alpha.push_back(random.uniform());
      for (auto& seed : gates.seeds) seed.push_back(gates.alpha.back() + 0.05 * random.uniform());
      gates.streaming.push_back(gates.alpha.back() < 0.5);
    }
    gates.rank_correlation = num_seeds > 1 ? 0.97 : std::numeric_limits<double>::quiet_NaN();
    gates.overlap = num_seeds > 1 ? 0.93 : std::numeric_limits<double>::quiet_NaN();
    gates.num_tokens = 22400;
    gates.seconds = 71.4;
    report.calibrations.push_back(std::move(gates));
  }
  report.quality = make_report(cases, scores);
  for (const std::int64_t length : {1024, 2048, 4096, 8192}) {
    const auto k = static_cast<double>(length) / 1024;
    report.speed.push_back({"dense", length, 1400 - 70 * k, 90 / (1 + 0.2 * k), length * 23040});
    report.speed.push_back(
        {"calibrated", length, 1420 - 35 * k, 92 / (1 + 0.1 * k), length * 11520 + 11520 * 1088});
  }
  report.questions = {{"A code listing with one note in it",
                       7921,
                       "What is the special magic number for <quiet-river>?",
                       "4711023",
                       {{"dense", "4711023.", true, 7.1, 41.0, 182 << 20, 0},
                        {"calibrated", "4711023.", true, 6.0, 55.0, 91 << 20, 12 << 20}}}};
  report.phases = {{"import", 4.2}, {"calibrate", 96.0}, {"evaluate", 170.5}};
  report.notes = {"Documents of 7,600 tokens were left out; --full has them."};
  report.seconds = 301.7;
  report.verdicts = judge(report);
  return report;
}

}  // namespace loza
