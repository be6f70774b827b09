#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "loza/attention/pattern.h"
#include "loza/base/json.h"
#include "loza/model/transformer.h"
#include "loza/parallel/group.h"
#include "loza/train/data.h"

// The room's door: which attention modules need to look far? One number a module, its gate or
// alpha, found on documents with answers while every weight stays as it is. Whatever the
// criterion: high alpha = must stay full, low alpha = may become streaming.
namespace loza {

struct CalibrateOptions {
  enum class Loss {
    kDistill,  // squared difference to the full model's final hidden states, at answers
    kLm,       // negative log-likelihood of the answer tokens
  };
  enum class LrDecay { kConstant, kTrapezoid };  // kTrapezoid: up over a fifth, down over the last

  std::string criterion = "alpha";  // a name of criteria()
  std::int64_t num_seeds = 1;       // runs on different documents
  std::uint64_t first_seed = 0;     // seeds first_seed, first_seed + 1, ...
  BlockPattern pattern{32, 1, 7};   // of the streaming branch
  std::int64_t num_steps = 16;      // of a seed
  std::int64_t documents_per_step = 1;

  std::int64_t num_documents() const { return num_steps * documents_per_step; }  // a seed

  // Of criterion "alpha":
  Loss loss = Loss::kDistill;
  LrDecay lr_decay = LrDecay::kConstant;
  double lr = 0.05;
  double l1 = 0.05;     // weight of mean |alpha|
  double start = 1;     // every gate's first value
  bool clamp = true;    // gates are kept in [0, 1]
  bool average = true;  // alpha is the mean over the steps' gates, not the last step's
};

// One seed's run.
struct SeedCalibration {
  std::uint64_t seed = 0;
  std::vector<double> alpha;                    // [modules]
  std::vector<double> losses;                   // [steps], of nll [documents], or empty
  std::vector<std::vector<double>> trajectory;  // alpha: [steps][modules], gates after each step
  std::int64_t num_tokens = 0;                  // of the documents read
  std::string data_hash;                        // SHA-256 of the documents; empty without documents
  double seconds = 0;
};

struct Calibration {
  CalibrateOptions options;
  std::vector<SeedCalibration> seeds;
  std::vector<double> alpha;  // [modules] mean over the seeds: what selection reads
  std::string weights_hash;   // SHA-256 of all weights, the same before and after

  std::int64_t num_modules() const { return static_cast<std::int64_t>(alpha.size()); }
  std::int64_t num_tokens() const;  // of all seeds
  double seconds() const;           // of all seeds
  std::string data_hash() const;    // SHA-256 over the seeds' hashes; empty without documents
};

// A way to find alphas: one file in criteria/ and one row in calibrate.cpp.
struct CriterionInfo {
  const char* name;
  const char* description;
  bool needs_documents;
  // Runs one seed; the documents are shared among the group's ranks, which all get the whole
  // result. `draw` is empty for criteria without documents.
  SeedCalibration (*run)(const Transformer& model, const DrawDocument& draw,
                         const CalibrateOptions& options, std::uint64_t seed, Group& group);
};

// Every criterion, the default first.
const std::vector<CriterionInfo>& criteria();
// nullptr when there is no such criterion.
const CriterionInfo* find_criterion(std::string_view name);

// Runs every seed, with a progress bar. The weights are hashed before and after; a difference
// is a std::logic_error. Throws Error(kUsage) for an unknown criterion, options out of range
// or documents that are too short for the pattern to matter; Error(kFailed) when the loss is
// not finite three times in a row. All ranks of `group` call it and get what one process would.
// REQUIRES: no weight requires a gradient.
Calibration calibrate(const Transformer& model, const DrawDocument& draw,
                      const CalibrateOptions& options, Group& group = Group::alone());

// What one would want to know before trusting the ranking, at a sparsity.
struct Stability {
  struct Pair {
    std::uint64_t first_seed = 0, second_seed = 0;
    double rank_correlation = 0;  // Spearman's
    double overlap = 0;           // share of the full modules that both seeds choose
  };

  double sparsity = 0;
  double lowest = 0, median = 0, highest = 0;  // of the mean alphas
  std::int64_t num_tied_at_cut = 0;            // select.h
  std::vector<Pair> pairs;                     // every two seeds
  double mean_rank_correlation = 0;            // of the pairs; NaN for a single seed
  double mean_overlap = 0;                     // likewise
};
Stability stability(const Calibration& calibration, double sparsity);

// The report for people: alphas as bars with what the sparsity makes of each module, spread,
// ties, agreement of the seeds, cost.
std::string report_text(const Calibration& calibration, double sparsity);
// What the gates file holds: alpha, criterion, pattern, options, seeds, hashes. Nothing that
// differs between two runs of one command.
Json gates_json(const Calibration& calibration);
// The report for programs: the same and stability, layer_type at the sparsity, seconds.
Json report_json(const Calibration& calibration, double sparsity);

}  // namespace loza
