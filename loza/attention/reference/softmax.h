#pragma once

#include <cstdint>
#include <vector>

// Softmax attention of one query over the keys that it sees.
namespace loza::reference {

// Weights of the visible keys (they sum to 1, or are all 0 when the query sees nothing) and
// the natural logarithm of the sum of exp(score).
struct Weights {
  std::vector<double> of_key;
  double lse = 0;
};

// Of the visible keys' scores.
Weights weights_of(const std::vector<double>& scores);

// sum over keys of weight * value row -> [V].
std::vector<double> weighted_sum(const std::vector<double>& weights,
                                 const std::vector<const double*>& values, std::int64_t v_size);

double dot(const double* a, const double* b, std::int64_t size);

}  // namespace loza::reference
