#include "loza/attention/reference/softmax.h"

#include <cmath>
#include <cstddef>
#include <limits>

namespace loza::reference {

double dot(const double* a, const double* b, std::int64_t size) {
  double sum = 0;
  for (std::int64_t i = 0; i < size; ++i) sum += a[i] * b[i];
  return sum;
}

Weights weights_of(const std::vector<double>& scores) {
  // A finite start: without a visible key, or with scores of -inf alone, every weight is 0.
  double max = std::numeric_limits<double>::lowest();
  for (const double score : scores) {
    if (!(score <= max)) max = score;  // a NaN stays
  }
  Weights weights;
  double sum = 0;
  for (const double score : scores) {
    weights.of_key.push_back(std::exp(score - max));
    sum += weights.of_key.back();
  }
  if (sum != 0) {
    for (double& weight : weights.of_key) weight /= sum;
  }
  weights.lse = sum == 0 ? -std::numeric_limits<double>::infinity() : max + std::log(sum);
  return weights;
}

std::vector<double> weighted_sum(const std::vector<double>& weights,
                                 const std::vector<const double*>& values, std::int64_t v_size) {
  std::vector<double> sum(static_cast<std::size_t>(v_size), 0.0);
  for (std::size_t j = 0; j < values.size(); ++j) {
    for (std::int64_t i = 0; i < v_size; ++i) {
      sum[static_cast<std::size_t>(i)] += weights[j] * values[j][i];
    }
  }
  return sum;
}

}  // namespace loza::reference
