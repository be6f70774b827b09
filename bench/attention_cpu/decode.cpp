// Decode: does a step cost what its bytes and multiply-adds cost, and under streaming the same at
// any length?
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/attention_cpu/cache.h"
#include "bench/attention_cpu/cases.h"
#include "bench/attention_cpu/prompt.h"
#include "bench/attention_cpu/rounds.h"

namespace loza::bench {
namespace {

void check_cache(const std::string& name, const Sizes& sizes, at::ScalarType dtype,
                 const BlockPattern& pattern) {
  Cache cache(sizes, 4096, dtype);
  for (int i = 0; i < 3; ++i) {
    const at::Tensor exact = cache.exact(pattern, 2048);
    expect_close(name, cache.step(pattern, 2048), exact, dtype);
  }
}

// Of a step that sees so many keys: the rows are all but a hundredth of its bytes.
Work step_work(const Sizes& sizes, const Cache& cache, std::int64_t keys) {
  const auto pairs = static_cast<double>(keys);
  return {forward_flops(sizes, pairs), pairs * cache.row_bytes()};
}

}  // namespace

void decode_full(Report& report, const MachineRates& rates) {
  struct Case {
    const char* name;
    Sizes sizes;
    std::int64_t len;
  };
  for (const Case& c : {Case{"decode full 128K absorbed", kAbsorbed, 131072},
                        Case{"decode full 32K, 32 heads of 8 x 128", kGrouped, 32768}}) {
    for (const at::ScalarType dtype : kBoth) {
      const std::string name = fmt::format("{} {}", c.name, name_of(dtype));
      if (!report.wants(name)) continue;
      check_cache(name, c.sizes, dtype, BlockPattern::full());
      Cache cache(c.sizes, c.len, dtype);
      Rounds rounds;
      rounds.add("ours", [&] { cache.step(BlockPattern::full(), c.len); });
      rounds.run(report.budget_s());
      Json& row = report.add(name);
      add_speed(row, rounds.seconds("ours"), step_work(c.sizes, cache, c.len), dtype, rates);
      add_bar(row, "share of the floor", row["share_of_floor"].get<double>(), 0.7);
    }
  }
}

void decode_streaming(Report& report, const MachineRates& rates) {
  constexpr std::int64_t kFullLen = 131072;
  const at::ScalarType dtype = at::kBFloat16;
  const std::string name = "decode streaming absorbed bf16, 4K to 1M";
  if (!report.wants(name)) return;
  check_cache(name, kAbsorbed, dtype, {});
  Cache cache(kAbsorbed, std::int64_t{1} << 20, dtype);
  constexpr int kSteps = 50;  // timed together: one is too short
  Rounds rounds;
  const std::vector<std::int64_t> lengths{4096, 32768, kFullLen, std::int64_t{1} << 20};
  for (const std::int64_t len : lengths) {
    rounds.add(std::to_string(len), [&cache, len] {
      for (int i = 0; i < kSteps; ++i) cache.step({}, len);
    });
  }
  rounds.add("full", [&] { cache.step(BlockPattern::full(), kFullLen); });
  rounds.run(report.budget_s());
  const double seconds = rounds.seconds(std::to_string(kFullLen)) / kSteps;
  Json& row = report.add(name);
  add_speed(row, seconds, step_work(kAbsorbed, cache, num_visible_keys({}, kFullLen - 1)), dtype,
            rates);
  double fastest = seconds, slowest = seconds;
  for (const std::int64_t len : lengths) {
    const double of_len = rounds.seconds(std::to_string(len)) / kSteps;
    row["us_by_len"][std::to_string(len)] = of_len * 1e6;
    fastest = std::min(fastest, of_len);
    slowest = std::max(slowest, of_len);
  }
  add_bar(row, "slowest length to fastest", slowest / fastest, 1.1, Bound::kAtMost);
  add_bar(row, "faster than our full decode at 128K",
          rounds.ratio("full", std::to_string(kFullLen)) * kSteps, 80);
}

}  // namespace loza::bench
