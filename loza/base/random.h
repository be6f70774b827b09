#pragma once

#include <cstdint>
#include <vector>

#include "loza/base/check.h"

namespace loza {

// A small generator whose numbers are the same on every platform and standard library
// (std's distributions are not). SplitMix64: Steele, Lea and Flood, OOPSLA 2014.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  // Uniform in [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
  // Uniform in [0, n). REQUIRES: n >= 1.
  std::int64_t below(std::int64_t n) {
    LOZA_CHECK(n >= 1, n);
    return static_cast<std::int64_t>(
        (static_cast<unsigned __int128>(next()) * static_cast<unsigned __int128>(n)) >> 64);
  }
  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (std::int64_t i = static_cast<std::int64_t>(items.size()) - 1; i > 0; --i) {
      std::swap(items[static_cast<std::size_t>(i)], items[static_cast<std::size_t>(below(i + 1))]);
    }
  }

 private:
  std::uint64_t state_;
};

}  // namespace loza
