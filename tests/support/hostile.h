#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <string>
#include <utility>

#include "loza/base/error.h"
#include "tests/support/case_count.h"

namespace loza::testing {

// A line of /proc/self/status in bytes: "VmRSS" is the memory in use, "VmHWM" its peak.
inline std::uint64_t memory_bytes(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(name + ":", 0) == 0) return std::stoull(line.substr(name.size() + 1)) * 1024;
  }
  return 0;
}

// Makes VmHWM start again from the memory now in use.
inline void reset_peak_memory() { std::ofstream("/proc/self/clear_refs") << "5"; }

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // memory and time are not the program's own
#else
constexpr bool kSanitized = false;
#endif

// Runs hostile inputs: each must end in Error(kBadInput) whose line has `fragment`, in less
// than a second. What the memory grew by over all of them is checked at the end, beside the
// largest input's size.
class HostileSuite {
 public:
  explicit HostileSuite(std::string name) : name_(std::move(name)) {
    reset_peak_memory();
    memory_before_ = memory_bytes("VmRSS");
  }

  ~HostileSuite() {
    constexpr std::uint64_t kAllowed = std::uint64_t{64} << 20;
    const std::uint64_t peak = memory_bytes("VmHWM");
    const std::uint64_t growth = peak > memory_before_ ? peak - memory_before_ : 0;
    if (!kSanitized) {
      EXPECT_LT(growth, kAllowed + largest_input_) << name_;
    }
    std::printf("%s: %d hostile cases, %.1f MiB more memory at most\n", name_.c_str(), num_cases_,
                static_cast<double>(growth) / (1 << 20));
  }

  void expect_bad_input(const std::string& name, const std::string& fragment,
                        const std::function<void()>& body, std::uint64_t input_bytes = 0) {
    ++num_cases_;
    ++case_count();
    largest_input_ = std::max(largest_input_, input_bytes);
    const auto start = std::chrono::steady_clock::now();
    try {
      body();
      ADD_FAILURE() << name_ << ": " << name << ": was accepted";
    } catch (const Error& e) {
      EXPECT_EQ(static_cast<int>(e.code()), static_cast<int>(ExitCode::kBadInput)) << name;
      EXPECT_NE(std::string(e.what()).find(fragment), std::string::npos)
          << name_ << ": " << name << ": expected to find '" << fragment << "' in: " << e.what();
      EXPECT_FALSE(e.text().place.empty() || e.text().expected.empty() || e.text().got.empty())
          << name << ": " << e.what();
      EXPECT_LT(std::string(e.what()).size(), 1500u) << name << ": a long line";
    } catch (const std::exception& e) {
      ADD_FAILURE() << name_ << ": " << name << ": " << e.what();
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (!kSanitized) {
      EXPECT_LT(seconds.count(), 1.0) << name_ << ": " << name;
    }
  }

 private:
  std::string name_;
  std::uint64_t memory_before_ = 0, largest_input_ = 0;
  int num_cases_ = 0;
};

}  // namespace loza::testing
