#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>

#include "loza/base/error.h"

namespace loza::testing {

// The most memory this process had at once.
inline std::uint64_t peak_rss_bytes() {
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

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
  explicit HostileSuite(std::string name) : name_(std::move(name)), rss_before_(peak_rss_bytes()) {}

  ~HostileSuite() {
    constexpr std::uint64_t kAllowed = std::uint64_t{64} << 20;
    const std::uint64_t growth = peak_rss_bytes() - rss_before_;
    if (!kSanitized) {
      EXPECT_LT(growth, kAllowed + largest_input_) << name_;
    }
    std::printf("%s: %d hostile cases, %.1f MiB more memory at most\n", name_.c_str(), num_cases_,
                static_cast<double>(growth) / (1 << 20));
  }

  void expect_bad_input(const std::string& name, const std::string& fragment,
                        const std::function<void()>& body, std::uint64_t input_bytes = 0) {
    ++num_cases_;
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
  std::uint64_t rss_before_ = 0, largest_input_ = 0;
  int num_cases_ = 0;
};

}  // namespace loza::testing
