#include "bench/attention_cpu/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "loza/attention/cpu/instruction_set.h"
#include "loza/base/parallel_for.h"
#include "loza/base/processor.h"
#include "loza/base/table.h"

namespace loza::bench {
namespace {

std::string number_of(const Json& row, const char* key, const char* format) {
  return row.contains(key) ? fmt::format(fmt::runtime(format), row[key].get<double>()) : "";
}

Json machine_of(const MachineRates& rates) {
  return Json{{"processor", processor_name()},
              {"threads", num_threads()},
              {"instruction_set", cpu::instruction_set_name(cpu::instruction_set())},
              {"bf16_fma_gflops", rates.bf16.fma_flops * 1e-9},
              {"fp32_fma_gflops", rates.fp32.fma_flops * 1e-9},
              {"bf16_matmul_gflops", rates.bf16.matmul_flops * 1e-9},
              {"fp32_matmul_gflops", rates.fp32.matmul_flops * 1e-9},
              {"read_gbs", rates.read_bytes * 1e-9}};
}

}  // namespace

Json& Report::add(const std::string& name) {
  cases_.push_back(Json{{"name", name}});
  return cases_.back();
}

void add_speed(Json& row, double seconds, const Work& work, at::ScalarType dtype,
               const MachineRates& rates) {
  const double floor_s =
      std::max(work.flops / rates.of(dtype).fma_flops, work.bytes / rates.read_bytes);
  row["dtype"] = name_of(dtype);
  row["flops"] = work.flops;
  row["bytes"] = work.bytes;
  row["median_ms"] = seconds * 1e3;
  row["gflops"] = work.flops / seconds * 1e-9;
  row["gbs"] = work.bytes / seconds * 1e-9;
  row["floor_ms"] = floor_s * 1e3;
  row["share_of_floor"] = floor_s / seconds;
}

void add_bar(Json& row, const std::string& what, double value, double bar, Bound bound) {
  const bool is_met = bound == Bound::kAtLeast ? value >= bar : value <= bar;
  row["bars"].push_back(
      Json{{"what", what},
           {"value", value},
           {"bar", fmt::format("{} {}", bound == Bound::kAtLeast ? ">=" : "<=", bar)},
           {"met", is_met}});
}

Json to_json(const Report& report, const MachineRates& rates) {
  return Json{{"machine", machine_of(rates)}, {"cases", report.cases()}};
}

void print_tables(const Json& report) {
  Table speeds({"case", "median ms", "GFLOP/s", "GB/s", "floor ms", "of floor", "torch ms"});
  Table bars({"case", "what", "value", "bar", "met"});
  for (const Json& row : report["cases"]) {
    const auto name = row["name"].get<std::string>();
    speeds.add_row({name, number_of(row, "median_ms", "{:.3f}"), number_of(row, "gflops", "{:.1f}"),
                    number_of(row, "gbs", "{:.1f}"), number_of(row, "floor_ms", "{:.3f}"),
                    number_of(row, "share_of_floor", "{:.2f}"),
                    number_of(row, "torch_ms", "{:.1f}")});
    for (const Json& bar : row["bars"]) {
      bars.add_row({name, bar["what"].get<std::string>(), number_of(bar, "value", "{:.3f}"),
                    bar["bar"].get<std::string>(), bar["met"].get<bool>() ? "yes" : "NO"});
    }
  }
  const Json& machine = report["machine"];
  fmt::print(
      "{}, {} threads, {}\nmultiply-adds: bf16 {:.0f}, fp32 {:.0f} GFLOP/s; libtorch's matmul on "
      "the "
      "two products: bf16 {:.0f}, fp32 {:.0f}; reading memory: {:.1f} GB/s\n\n{}\n{}",
      machine["processor"].get<std::string>(), machine["threads"].get<int>(),
      machine["instruction_set"].get<std::string>(), machine["bf16_fma_gflops"].get<double>(),
      machine["fp32_fma_gflops"].get<double>(), machine["bf16_matmul_gflops"].get<double>(),
      machine["fp32_matmul_gflops"].get<double>(), machine["read_gbs"].get<double>(),
      speeds.to_string(), bars.to_string());
}

}  // namespace loza::bench
