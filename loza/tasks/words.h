#pragma once

#include <cstdint>
#include <string>
#include <unordered_set>

#include "loza/base/random.h"

namespace loza {

// Draws names like "brave-otter", each once; there are 65,536 of them.
class UniqueNames {
 public:
  explicit UniqueNames(Random& random) : random_(random) {}
  // Throws Error(kUsage) when all have been drawn.
  std::string next();

 private:
  Random& random_;
  std::unordered_set<std::int64_t> used_;
};

// Draws numbers of exactly num_digits digits, each once.
// REQUIRES: far fewer draws than there are such numbers.
class UniqueNumbers {
 public:
  UniqueNumbers(Random& random, int num_digits) : random_(random), num_digits_(num_digits) {}
  std::string next();

 private:
  Random& random_;
  int num_digits_;
  std::unordered_set<std::int64_t> used_;
};

}  // namespace loza
