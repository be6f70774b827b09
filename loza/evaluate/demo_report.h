#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "loza/base/json.h"
#include "loza/evaluate/report.h"

namespace loza {

// Everything that the demo found, as plain data: what it prints, its JSON and its page are
// three views of it.
struct DemoReport {
  // A line of "how this was made": ("processor", "..."), ("weights", "bf16"), ...
  struct Fact {
    std::string name, value;
  };
  // What a criterion found.
  struct Gates {
    std::string criterion;
    std::vector<double> alpha;               // [modules] mean over the seeds
    std::vector<std::vector<double>> seeds;  // [seeds][modules]
    std::vector<bool> streaming;             // [modules] what the sparsity makes of them
    double rank_correlation = 0;             // of the seeds; NaN for a single one
    double overlap = 0;                      // likewise: share of full modules chosen by both
    std::int64_t num_tied_at_cut = 0;
    std::int64_t num_tokens = 0;
    double seconds = 0;
  };
  struct Speed {
    std::string subject;
    std::int64_t length = 0;
    double prefill_tokens_per_s = 0, decode_tokens_per_s = 0;
    std::int64_t kv_bytes = 0;
  };
  struct Answer {
    std::string subject, text;
    bool correct = false;
    double prefill_s = 0, decode_tokens_per_s = 0;
    std::int64_t kv_full_bytes = 0, kv_streaming_bytes = 0;
  };
  struct Question {
    std::string about;            // what the long text is
    std::int64_t num_tokens = 0;  // of the text and the question
    std::string text, expected;
    std::vector<Answer> answers;
  };
  // A claim that the numbers decide.
  struct Verdict {
    std::string claim, evidence;
    bool holds = false;
  };
  struct Phase {
    std::string name;
    double seconds = 0;
  };

  std::string model;
  std::vector<Fact> facts;
  std::vector<Gates> calibrations;  // the first is what the converted model uses
  EvalReport quality;               // the first subject is the dense model
  std::vector<Speed> speed;
  std::vector<Question> questions;
  std::vector<Verdict> verdicts;
  std::vector<Phase> phases;
  std::vector<std::string> notes;  // what was left out, and what to keep in mind
  double seconds = 0;              // the whole job
};

// Names of the demo's subjects, in tables and charts.
inline constexpr const char* kDense = "dense";
inline constexpr const char* kCalibrated = "calibrated";
inline constexpr const char* kRecovered = "calibrated, trained";  // where the demo trains

// What the demo is there to show: does the calibrated model keep up with the dense one, do
// choices made without looking at it fall behind, do the seeds agree, are memory and time saved?
// Computed from the other members alone.
std::vector<DemoReport::Verdict> judge(const DemoReport& report);

Json demo_json(const DemoReport& report);

// The tables and verdicts for a terminal.
std::string demo_text(const DemoReport& report);

// "38.2 MiB". Three significant digits.
std::string bytes_text(std::int64_t bytes);

}  // namespace loza
