#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "loza/attention/pattern.h"
#include "loza/model/plan.h"

namespace loza {

// Which modules become streaming at a sparsity.
struct Selection {
  std::vector<bool> streaming;  // [modules]
  // Modules whose alpha equals the alpha at the cut, when some of them fell on each side: the
  // index alone parted them. 0 when the alphas decided.
  std::int64_t num_tied_at_cut = 0;

  std::int64_t num_streaming() const;
};

// Exactly round(modules * sparsity) modules (halves up), the lowest by (alpha, index).
// Throws Error(kUsage) unless 0 <= sparsity <= 1. REQUIRES: finite alphas.
Selection select_lowest(const std::vector<double>& alpha, double sparsity);

// The selection as a plan. `pattern` is what a streaming module gets.
AttentionPlan select_plan(const std::vector<double>& alpha, double sparsity,
                          const BlockPattern& pattern, std::string origin);

// Spearman's rank correlation, tied values sharing their mean rank. NaN when one side is
// constant or there are fewer than two values. REQUIRES: equal sizes.
double rank_correlation(const std::vector<double>& a, const std::vector<double>& b);

// The share of modules that stay full under `a` which stay full under `b` too; 1 when none
// stays full. REQUIRES: equal sizes and equal numbers of streaming modules.
double full_overlap(const Selection& a, const Selection& b);

}  // namespace loza
