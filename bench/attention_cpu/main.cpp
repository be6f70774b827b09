// Attention on the CPU beside libtorch's, and beside what the machine can do.
//
//   attention_cpu                           every case, with the best instruction set
//   attention_cpu --only decode             those whose name contains "decode"
//   attention_cpu --set avx2 --json         with another set, as JSON
//
// Each case is checked against attention by definition in fp64, on a shortened copy of itself,
// before it is timed. Whatever a case compares is timed in turn, round by round, so that a ratio is
// the median of ratios of neighbours in time.
//
// GFLOP/s count the pairs that the pattern lets through: 2 (D + V) a pair and head forward,
// 2 (3 D + 2 V) backward, where scores are computed anew. Four rates are measured first and give
// the floors: multiply-adds in registers, libtorch's matrix product on attention's own two
// products, both in bf16 and fp32, and reading memory that no cache holds.
//
// cases.h names the cases; one file a question has them.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>

#include "bench/attention_cpu/cases.h"
#include "bench/attention_cpu/machine_rates.h"
#include "bench/attention_cpu/report.h"
#include "loza/attention/cpu/instruction_set.h"
#include "loza/base/json.h"
#include "loza/base/parallel_for.h"

namespace loza::bench {
namespace {

// In this order.
constexpr void (*kCases[])(Report&, const MachineRates&) = {
    prefill_full, prefill_streaming, prefill_growth, train, decode_streaming, decode_full, threads};

}  // namespace
}  // namespace loza::bench

int main(int argc, char** argv) {
  using namespace loza;
  using namespace loza::bench;
  CLI::App app("Checks and times attention on the CPU, beside libtorch's.");
  std::string only, set_name;
  int threads = 0;
  double budget_s = 2;
  bool as_json = false;
  app.add_option("--only", only, "cases whose name contains this");
  app.add_option("--set", set_name, "instruction set: portable, avx2, avx512, avx512-bf16");
  app.add_option("--threads", threads, "number of threads");
  app.add_option("--seconds", budget_s, "about how long to time each case");
  app.add_flag("--json", as_json, "print JSON");
  CLI11_PARSE(app, argc, argv);

  if (threads > 0) set_num_threads(threads);
  for (const cpu::InstructionSet set : cpu::supported_instruction_sets()) {
    if (set_name == cpu::instruction_set_name(set)) cpu::set_instruction_set(set);
  }
  at::manual_seed(1);
  const MachineRates rates = measure_rates();
  Report report(only, budget_s);
  for (const auto& run : kCases) run(report, rates);
  const Json json = to_json(report, rates);
  if (as_json) {
    fmt::print("{}\n", json.dump(2));
  } else {
    print_tables(json);
  }
  return 0;
}
