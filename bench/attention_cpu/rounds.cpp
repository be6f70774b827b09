#include "bench/attention_cpu/rounds.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <utility>

#include "loza/base/check.h"

namespace loza::bench {
namespace {

double seconds_of(const std::function<void()>& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  LOZA_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

void Rounds::add(const std::string& name, std::function<void()> body) {
  names_.push_back(name);
  bodies_.push_back(std::move(body));
  seconds_.emplace_back();
}

void Rounds::run(double budget_s) {
  bodies_.front()();
  double total = 0;
  while (total < budget_s || seconds_.front().size() < 3) {
    for (std::size_t i = 0; i < bodies_.size(); ++i) {
      seconds_[i].push_back(seconds_of(bodies_[i]));
      total += seconds_[i].back();
    }
  }
}

double Rounds::seconds(const std::string& name) const { return median(of(name)); }

double Rounds::ratio(const std::string& slow, const std::string& fast) const {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < of(slow).size(); ++i) ratios.push_back(of(slow)[i] / of(fast)[i]);
  return median(ratios);
}

const std::vector<double>& Rounds::of(const std::string& name) const {
  const auto found = std::find(names_.begin(), names_.end(), name);
  LOZA_CHECK(found != names_.end(), name);
  return seconds_[static_cast<std::size_t>(found - names_.begin())];
}

}  // namespace loza::bench
