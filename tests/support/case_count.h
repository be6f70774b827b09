#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdio>

// Counts checked cases, where one test checks many, and prints the sum at the end.
namespace loza::testing {

inline std::atomic<std::int64_t>& case_count() {
  static std::atomic<std::int64_t> count{0};
  return count;
}

class CaseCountPrinter : public ::testing::Environment {
 public:
  void TearDown() override {
    std::printf("%lld cases checked\n", static_cast<long long>(case_count().load()));
  }
};

inline const ::testing::Environment* const kCaseCountPrinter =
    ::testing::AddGlobalTestEnvironment(new CaseCountPrinter);

}  // namespace loza::testing
