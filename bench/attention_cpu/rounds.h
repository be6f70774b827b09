#pragma once

#include <functional>
#include <string>
#include <vector>

namespace loza::bench {

// Things that are timed in turn, round by round: a ratio of two is the median of ratios of
// neighbours in time.
class Rounds {
 public:
  void add(const std::string& name, std::function<void()> body);
  // The first once to warm up, then at least 3 rounds, for about `budget_s`.
  // REQUIRES: something was added.
  void run(double budget_s);

  // The median. REQUIRES: run(), and a name that was added; so for ratio().
  double seconds(const std::string& name) const;
  // How many times longer `slow` takes than `fast`.
  double ratio(const std::string& slow, const std::string& fast) const;

 private:
  const std::vector<double>& of(const std::string& name) const;

  std::vector<std::string> names_;
  std::vector<std::function<void()>> bodies_;
  std::vector<std::vector<double>> seconds_;  // [names][rounds]
};

}  // namespace loza::bench
