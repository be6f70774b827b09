#pragma once

#include <cstdint>
#include <string>
#include <unordered_set>

#include "loza/base/random.h"

namespace loza {

// A word of the list, each time any of 256.
const char* random_adjective(Random& random);
const char* random_noun(Random& random);

// Like "0f0e3c4a-7d1b-4c55-9a0e-5b8a1c2d3e4f": 122 random bits, so no two are ever alike.
std::string random_uuid(Random& random);

// Draws names like "brave-otter", each once; after 65,536 of them, like "brave-calm-otter".
// REQUIRES: fewer than 16 million draws.
class UniqueNames {
 public:
  explicit UniqueNames(Random& random) : random_(random) {}
  std::string next();

 private:
  Random& random_;
  std::unordered_set<std::int64_t> used_;
};

// Draws words of num_letters random letters, each once. REQUIRES: far fewer draws than there
// are such words.
class UniqueLetters {
 public:
  // first_letter: 'a' or 'A'.
  UniqueLetters(Random& random, char first_letter, int num_letters)
      : random_(random), first_letter_(first_letter), num_letters_(num_letters) {}
  std::string next();

 private:
  Random& random_;
  char first_letter_;
  int num_letters_;
  std::unordered_set<std::string> used_;
};

// Draws numbers of exactly num_digits digits, each once until nine of ten are used up; then all
// are new again.
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
