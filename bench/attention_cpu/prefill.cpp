// Prefill: is it faster than libtorch's, near the machine's floor, and linear where it streams?
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "bench/attention_cpu/cases.h"
#include "bench/attention_cpu/prompt.h"
#include "bench/attention_cpu/rounds.h"

namespace loza::bench {
namespace {

void check_prompt(const std::string& name, const Sizes& sizes, at::ScalarType dtype,
                  const BlockPattern& pattern) {
  Sizes few = sizes;
  few.heads = few.group();
  few.key_heads = 1;
  Prompt prompt(few, kCheckedLen, dtype);
  expect_close(name, prompt.ours(pattern), prompt.in_fp64().ours(pattern), dtype);
}

// Slope of log(seconds) over log(length).
double growth_exponent(const std::vector<double>& lengths, const std::vector<double>& seconds) {
  const auto log_of = [](double x) { return std::log(x); };
  std::vector<double> x(lengths.size()), y(lengths.size());
  std::transform(lengths.begin(), lengths.end(), x.begin(), log_of);
  std::transform(seconds.begin(), seconds.end(), y.begin(), log_of);
  const auto n = static_cast<double>(x.size());
  const double mean_x = std::accumulate(x.begin(), x.end(), 0.0) / n;
  const double mean_y = std::accumulate(y.begin(), y.end(), 0.0) / n;
  double xy = 0, xx = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean_x) * (y[i] - mean_y);
    xx += (x[i] - mean_x) * (x[i] - mean_x);
  }
  return xy / xx;
}

}  // namespace

void prefill_full(Report& report, const MachineRates& rates) {
  constexpr std::int64_t kLen = 4096;
  const BlockPattern pattern = BlockPattern::full();
  for (const at::ScalarType dtype : kBoth) {
    const std::string name = fmt::format("prefill full 4K {}", name_of(dtype));
    if (!report.wants(name)) continue;
    check_prompt(name, kExpanded, dtype, pattern);
    const Prompt prompt(kExpanded, kLen, dtype), padded = prompt.with_padded_values();
    Rounds rounds;
    rounds.add("ours", [&] { prompt.ours(pattern); });
    rounds.add("torch", [&] { prompt.torch({}); });
    rounds.add("torch, padded values", [&] { padded.torch({}); });
    rounds.run(report.budget_s());
    const Work work = forward_work(kExpanded, pattern, kLen, dtype);
    const double matmul_s = work.flops / rates.of(dtype).matmul_flops;
    Json& row = report.add(name);
    add_speed(row, rounds.seconds("ours"), work, dtype, rates);
    row["torch_ms"] = rounds.seconds("torch") * 1e3;
    row["torch_padded_ms"] = rounds.seconds("torch, padded values") * 1e3;
    add_bar(row, "faster than torch's sdpa (the better of values as they are and padded)",
            std::min(rounds.ratio("torch", "ours"), rounds.ratio("torch, padded values", "ours")),
            dtype == at::kFloat ? 1.2 : 3.0);
    add_bar(row, "share of the matmul's rate", matmul_s / rounds.seconds("ours"), 0.6);
  }
}

void prefill_streaming(Report& report, const MachineRates& rates) {
  constexpr std::int64_t kLen = 16384;
  const BlockPattern streaming, full = BlockPattern::full();
  const at::ScalarType dtype = at::kBFloat16;
  const std::string name = "prefill streaming 16K bf16, 2 heads";
  if (!report.wants(name)) return;
  Sizes sizes = kExpanded;  // fewer heads: libtorch takes long
  sizes.heads = sizes.key_heads = 2;
  check_prompt(name, sizes, dtype, streaming);
  const Prompt prompt(sizes, kLen, dtype);
  const at::Tensor mask = boolean_mask(streaming, kLen);
  Rounds rounds;
  rounds.add("ours", [&] { prompt.ours(streaming); });
  rounds.add("full", [&] { prompt.ours(full); });
  rounds.add("torch", [&] { prompt.torch(mask); });
  rounds.run(report.budget_s());
  const double pairs = num_pairs(streaming, 0, kLen), all_pairs = num_pairs(full, 0, kLen);
  Json& row = report.add(name);
  add_speed(row, rounds.seconds("ours"), forward_work(sizes, streaming, kLen, dtype), dtype, rates);
  row["full_ms"] = rounds.seconds("full") * 1e3;
  row["torch_ms"] = rounds.seconds("torch") * 1e3;
  row["pairs_full_to_streaming"] = all_pairs / pairs;
  add_bar(row, "faster than our full", rounds.ratio("full", "ours"), 12);
  add_bar(row, "faster than torch's sdpa with the boolean mask", rounds.ratio("torch", "ours"), 15);
}

void prefill_growth(Report& report, const MachineRates&) {
  Sizes sizes = kExpanded;
  sizes.heads = sizes.key_heads = 2;
  const std::string name = "prefill streaming growth bf16, 2 heads";
  if (!report.wants(name)) return;
  Json& row = report.add(name);
  std::vector<double> lengths, seconds;
  for (std::int64_t len = 4096; len <= 262144; len *= 2) {
    const Prompt prompt(sizes, len, at::kBFloat16);
    Rounds rounds;
    rounds.add("ours", [&] { prompt.ours({}); });
    rounds.run(report.budget_s() / 8);
    lengths.push_back(static_cast<double>(len));
    seconds.push_back(rounds.seconds("ours"));
    row["seconds_by_len"][std::to_string(len)] = seconds.back();
  }
  const double exponent = growth_exponent(lengths, seconds);
  row["exponent"] = exponent;
  add_bar(row, "|exponent - 1|", std::fabs(exponent - 1), 0.05, Bound::kAtMost);
}

}  // namespace loza::bench
