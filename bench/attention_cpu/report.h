#pragma once

#include <string>
#include <utility>

#include "bench/attention_cpu/machine_rates.h"
#include "bench/attention_cpu/sizes.h"
#include "loza/base/json.h"

// Results on their way to JSON and to the tables.
namespace loza::bench {

// The cases' rows, and what the command line asks of every case.
class Report {
 public:
  Report(std::string only, double budget_s) : only_(std::move(only)), budget_s_(budget_s) {}

  // About how long to time a case.
  double budget_s() const { return budget_s_; }
  bool wants(const std::string& name) const { return name.find(only_) != std::string::npos; }
  // A row for the case, to fill before the next one is added.
  Json& add(const std::string& name);
  const Json& cases() const { return cases_; }

 private:
  std::string only_;
  double budget_s_;
  Json cases_ = Json::array();
};

// What a case did and how long it took, as time, rates and share of its floor: its multiply-adds
// or its bytes, whichever take longer.
void add_speed(Json& row, double seconds, const Work& work, at::ScalarType dtype,
               const MachineRates& rates);

enum class Bound { kAtLeast, kAtMost };

// One line of what is asked for.
void add_bar(Json& row, const std::string& what, double value, double bar,
             Bound bound = Bound::kAtLeast);

// {"machine": processor, threads, instruction set and rates, "cases": rows}.
Json to_json(const Report& report, const MachineRates& rates);

// The same as lines of text and two tables on stdout: speeds, and what is asked for.
void print_tables(const Json& report);

}  // namespace loza::bench
