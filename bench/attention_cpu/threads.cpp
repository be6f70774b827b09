// Threads: is the work of two done in half the time?
#include <cstdint>
#include <functional>
#include <string>

#include "bench/attention_cpu/cache.h"
#include "bench/attention_cpu/cases.h"
#include "bench/attention_cpu/prompt.h"
#include "bench/attention_cpu/rounds.h"
#include "loza/base/parallel_for.h"

namespace loza::bench {

void threads(Report& report, const MachineRates&) {
  const int all = num_threads();
  const auto with_threads = [](int count, const std::function<void()>& body) {
    return [count, body] {
      set_num_threads(count);
      body();
    };
  };
  const auto compare = [&](const std::string& name, double bar, const std::function<void()>& body) {
    if (!report.wants(name)) return;
    Rounds rounds;
    rounds.add("one", with_threads(1, body));
    rounds.add("two", with_threads(2, body));
    rounds.run(report.budget_s());
    set_num_threads(all);
    Json& row = report.add(name);
    row["median_ms"] = rounds.seconds("two") * 1e3;
    row["one_thread_ms"] = rounds.seconds("one") * 1e3;
    add_bar(row, "two threads against one", rounds.ratio("one", "two"), bar);
  };
  const Prompt prompt(kExpanded, 4096, at::kBFloat16);
  compare("threads, prefill full 4K bf16", 1.8, [&] { prompt.ours(BlockPattern::full()); });
  compare("threads, prefill streaming 4K bf16", 1.8, [&] { prompt.ours({}); });
  Cache cache(kAbsorbed, 131072, at::kBFloat16);
  compare("threads, decode full 128K absorbed bf16", 1.6,
          [&] { cache.step(BlockPattern::full(), 131072); });
}

}  // namespace loza::bench
