#pragma once

#include <cstdint>
#include <span>

namespace loza {

// An estimate with its 95 % confidence interval.
struct Interval {
  double value = 0, low = 0, high = 0;

  bool contains(double x) const { return low <= x && x <= high; }
};

// The share of hits among n independent tries, with Wilson's score interval: it stays inside
// [0, 1] and is honest for few tries and for shares near 0 and 1 (E. B. Wilson, JASA 22, 1927).
// REQUIRES: 0 <= hits <= n, n >= 1.
Interval wilson_interval(std::int64_t hits, std::int64_t n);

// sum(numerators) / sum(weights) over units (answers, or stretches of a text), with the
// percentile interval of a bootstrap that draws whole units with replacement: a unit's
// numerator and weight stay together. The mean of x is bootstrap_ratio(x, ones), the mean of a
// paired difference bootstrap_ratio(a - b, ones): pairing removes what both share, such as how
// hard a question is. The same input gives the same interval on every machine.
// REQUIRES: equal sizes >= 1; every weight > 0.
Interval bootstrap_ratio(std::span<const double> numerators, std::span<const double> weights);

}  // namespace loza
