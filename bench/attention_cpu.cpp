// Attention on the CPU: each workload is checked against the definition on a shortened copy of
// itself, then timed.
//
//   attention_cpu                      all workloads with the best instruction set
//   attention_cpu --only decode        those whose name contains "decode"
//   attention_cpu --set avx2 --json    with another set, as JSON
//   attention_cpu --busy               on a machine that has other work to do: one thread, timed
//                                      by the processor time that it gets
//
// GFLOP/s count the pairs that the pattern lets through: 2 (D + V) a pair and head forward,
// 2 (3 D + 2 V) backward (scores are computed anew). The floor of prefill and backward is the
// rate of the kernels' own matrix product alone, that of decode the slower of that and reading
// the keys and values at the rate at which memory is read.
#include <fmt/format.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "loza/attention/cpu/buffer.h"
#include "loza/attention/cpu/cpu.h"
#include "loza/attention/cpu/instruction_set.h"
#include "loza/attention/cpu/tile.h"
#include "loza/attention/reference/reference.h"
#include "loza/attention/reference/rows.h"
#include "loza/base/check.h"
#include "loza/base/json.h"
#include "loza/base/parallel_for.h"
#include "loza/base/random.h"
#include "loza/base/table.h"

namespace loza {
namespace {

enum class Pass { kForward, kBackward, kDecode };

struct Workload {
  const char* name;
  Pass pass;
  std::int64_t len, heads, key_heads, qk_size, v_size;
  BlockPattern pattern;
  DType dtype = DType::kBF16;
};

const std::vector<Workload> kWorkloads = {
    // SmolLM2-135M: 9 query heads, 3 key heads of 64.
    {"forward full 700 block 32", Pass::kForward, 700, 9, 3, 64, 64, BlockPattern::full(32)},
    {"forward streaming 700 block 32", Pass::kForward, 700, 9, 3, 64, 64, {32, 1, 7}},
    {"forward full 2K", Pass::kForward, 2048, 9, 3, 64, 64, BlockPattern::full()},
    {"forward full 8K", Pass::kForward, 8192, 9, 3, 64, 64, BlockPattern::full()},
    {"forward streaming 8K", Pass::kForward, 8192, 9, 3, 64, 64, {}},
    {"forward full 2K fp32", Pass::kForward, 2048, 9, 3, 64, 64, BlockPattern::full(), DType::kF32},
    {"backward full 700 block 32", Pass::kBackward, 700, 9, 3, 64, 64, BlockPattern::full(32)},
    {"backward streaming 700 block 32", Pass::kBackward, 700, 9, 3, 64, 64, {32, 1, 7}},
    {"backward full 2K", Pass::kBackward, 2048, 9, 3, 64, 64, BlockPattern::full()},
    {"backward streaming 8K", Pass::kBackward, 8192, 9, 3, 64, 64, {}},
    {"backward full 2K fp32", Pass::kBackward, 2048, 9, 3, 64, 64, BlockPattern::full(),
     DType::kF32},
    {"decode full 8K", Pass::kDecode, 8192, 9, 3, 64, 64, BlockPattern::full()},
    {"decode streaming 8K", Pass::kDecode, 8192, 9, 3, 64, 64, {}},
    {"decode full 8K fp32", Pass::kDecode, 8192, 9, 3, 64, 64, BlockPattern::full(), DType::kF32},
    // MLA: expanded in prefill, absorbed in decode.
    {"forward full 2K mla", Pass::kForward, 2048, 4, 4, 192, 128, BlockPattern::full()},
    {"backward full 2K mla", Pass::kBackward, 2048, 4, 4, 192, 128, BlockPattern::full()},
    {"decode full 8K mla", Pass::kDecode, 8192, 16, 1, 576, 512, BlockPattern::full()},
    {"decode streaming 8K mla", Pass::kDecode, 8192, 16, 1, 576, 512, {}},
};

// Tensors of random numbers, [tokens, heads, size] each.
class Tensor {
 public:
  Tensor(DType dtype, std::int64_t tokens, std::int64_t heads, std::int64_t size, Random* random)
      : dtype_(dtype),
        count_(tokens * heads * size),
        view_{nullptr, heads * size, size},
        bytes_(count_ * static_cast<std::int64_t>(element_bytes(dtype))) {
    view_.data = bytes_.data();
    for (std::int64_t i = 0; i < count_; ++i) {
      reference::store_element(dtype, view_.data, i,
                               random == nullptr ? std::nan("") : random->uniform() * 2 - 1);
    }
  }
  const TensorView& view() const { return view_; }
  double get(std::int64_t i) const { return reference::load_element(dtype_, view_.data, i); }

  // Largest difference to another tensor of the shape, relative to its largest number.
  double difference(const Tensor& other) const {
    double worst = 0, largest = 0;
    for (std::int64_t i = 0; i < count_; ++i) {
      const double error = std::fabs(get(i) - other.get(i));
      worst = error <= worst ? worst : error;  // keeps a NaN
      largest = std::fmax(largest, std::fabs(other.get(i)));
    }
    return worst / largest;
  }

 private:
  DType dtype_;
  std::int64_t count_;
  TensorView view_;
  cpu::Buffer<std::byte> bytes_;
};

enum class Clock { kWall, kThread };
Clock clock_in_use = Clock::kWall;

double now_s() {
  timespec time;
  clock_gettime(clock_in_use == Clock::kWall ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double seconds_of(const std::function<void()>& body) {
  const double begin = now_s();
  body();
  return now_s() - begin;
}

struct Timing {
  double median_s = 0, best_s = 0;
};

// Runs for about `budget_s` after one call to warm up.
Timing time_of(const std::function<void()>& body, double budget_s) {
  body();
  std::vector<double> seconds;
  double total = 0;
  while (total < budget_s || seconds.size() < 3) {
    seconds.push_back(seconds_of(body));
    total += seconds.back();
  }
  std::sort(seconds.begin(), seconds.end());
  return {seconds[seconds.size() / 2], seconds.front()};
}

// A workload's tensors, at its own length or a shorter one.
class Run {
 public:
  Run(const Workload& workload, std::int64_t len)
      : workload_(workload), len_(len), offsets_{0, len}, random_(1) {
    const bool is_decode = workload.pass == Pass::kDecode;
    const auto tensor = [&](std::int64_t tokens, std::int64_t heads, std::int64_t size) {
      return Tensor(workload.dtype, tokens, heads, size, &random_);
    };
    const auto empty = [&](std::int64_t tokens, std::int64_t heads, std::int64_t size) {
      return Tensor(workload.dtype, tokens, heads, size, nullptr);
    };
    const std::int64_t q_len = is_decode ? 1 : len;
    inputs_.push_back(tensor(q_len, workload.heads, workload.qk_size));
    if (is_decode) {
      // One row holds keys, then values; MLA's value is the beginning of its key.
      is_latent_ = workload.qk_size > 512;
      const std::int64_t row =
          is_latent_ ? workload.qk_size : workload.key_heads * (workload.qk_size + workload.v_size);
      const std::int64_t num_pages = (len + kPageLen - 1) / kPageLen;
      inputs_.push_back(tensor(num_pages * kPageLen, 1, row));
      for (std::int64_t i = 0; i < num_pages; ++i) {
        table_.push_back(static_cast<std::int32_t>(i));
      }
      random_.shuffle(table_);
    } else {
      inputs_.push_back(tensor(len, workload.key_heads, workload.qk_size));
      inputs_.push_back(tensor(len, workload.key_heads, workload.v_size));
      inputs_.push_back(tensor(len, workload.heads, workload.v_size));
    }
    outputs_.push_back(empty(q_len, workload.heads, workload.v_size));
    if (workload.pass == Pass::kBackward) {
      outputs_.push_back(empty(len, workload.heads, workload.qk_size));
      outputs_.push_back(empty(len, workload.key_heads, workload.qk_size));
      outputs_.push_back(empty(len, workload.key_heads, workload.v_size));
    }
    lse_.resize(static_cast<std::size_t>(q_len * workload.heads));
  }

  // The forward pass, or decode.
  void forward() {
    workload_.pass == Pass::kDecode ? cpu::attend_paged(decode()) : cpu::attend(prefill());
  }
  // What is timed.
  void timed() { workload_.pass == Pass::kBackward ? cpu::attend_backward(backward()) : forward(); }
  void by_definition() {
    if (workload_.pass == Pass::kDecode) return reference::attend_paged(decode());
    reference::attend(prefill());
    if (workload_.pass == Pass::kBackward) reference::attend_backward(backward());
  }
  double difference(const Run& other) const {
    double worst = 0;
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      const double error = outputs_[i].difference(other.outputs_[i]);
      worst = error <= worst ? worst : error;
    }
    return worst;
  }

  double flops() const {
    double pairs = 0;
    for (std::int64_t pos = workload_.pass == Pass::kDecode ? len_ - 1 : 0; pos < len_; ++pos) {
      pairs += static_cast<double>(num_visible_keys(workload_.pattern, pos));
    }
    const std::int64_t macs = workload_.pass == Pass::kBackward
                                  ? 3 * workload_.qk_size + 2 * workload_.v_size
                                  : workload_.qk_size + workload_.v_size;
    return 2 * pairs * static_cast<double>(macs * workload_.heads);
  }
  double kv_bytes() const {
    const std::int64_t row = is_latent_
                                 ? workload_.qk_size
                                 : workload_.key_heads * (workload_.qk_size + workload_.v_size);
    return static_cast<double>(num_visible_keys(workload_.pattern, len_ - 1) * row) *
           static_cast<double>(element_bytes(workload_.dtype));
  }

 private:
  static constexpr std::int64_t kPageLen = 32;

  ForwardParams prefill() {
    ForwardParams params;
    params.dtype = workload_.dtype;
    params.num_sequences = 1;
    params.num_heads = workload_.heads;
    params.num_key_heads = workload_.key_heads;
    params.qk_size = workload_.qk_size;
    params.v_size = workload_.v_size;
    params.q_offsets = params.k_offsets = offsets_;
    params.pattern = workload_.pattern;
    params.scale = 1 / std::sqrt(static_cast<double>(workload_.qk_size));
    params.q = inputs_[0].view();
    params.k = inputs_[1].view();
    params.v = inputs_[2].view();
    params.out = outputs_[0].view();
    params.lse = lse_.data();
    return params;
  }
  BackwardParams backward() {
    return {prefill(), inputs_[3].view(), outputs_[1].view(), outputs_[2].view(),
            outputs_[3].view()};
  }
  DecodeParams decode() {
    DecodeParams params;
    params.num_sequences = 1;
    params.num_heads = workload_.heads;
    params.num_key_heads = workload_.key_heads;
    params.qk_size = workload_.qk_size;
    params.v_size = workload_.v_size;
    params.pattern = workload_.pattern;
    params.scale = 1 / std::sqrt(static_cast<double>(workload_.qk_size));
    params.q = inputs_[0].view();
    params.kv.dtype = workload_.dtype;
    params.kv.pages = inputs_[1].view().data;
    params.kv.row_stride = inputs_[1].view().token_stride;
    params.kv.page_stride = kPageLen * params.kv.row_stride;
    params.kv.page_len = kPageLen;
    params.kv.k_head_stride = workload_.qk_size;
    params.kv.v_head_stride = workload_.v_size;
    params.kv.v_offset = is_latent_ ? 0 : workload_.key_heads * workload_.qk_size;
    params.kv.page_table = table_.data();
    params.kv.table_stride = static_cast<std::int64_t>(table_.size());
    params.kv.lengths = &len_;
    params.out = outputs_[0].view();
    params.lse = lse_.data();
    return params;
  }

  const Workload& workload_;
  std::int64_t len_;
  std::int64_t offsets_[2];
  Random random_;
  bool is_latent_ = false;
  std::vector<Tensor> inputs_, outputs_;
  std::vector<std::int32_t> table_;
  std::vector<float> lse_;
};

void check(const Workload& workload) {
  constexpr std::int64_t kCheckedLen = 400;
  const std::int64_t len = std::min(workload.len, kCheckedLen);
  Run ours(workload, len), exact(workload, len);
  exact.by_definition();
  ours.forward();
  if (workload.pass == Pass::kBackward) ours.timed();
  const double difference = ours.difference(exact);
  LOZA_CHECK(difference <= (workload.dtype == DType::kF32 ? 1e-5 : 2e-2), workload.name,
             difference);
}

// GFLOP/s of the kernels' matrix product where the softmax weighs nothing: long rows, and
// little of them, on every thread.
double product_rate(DType dtype) {
  const cpu::TileKernels& kernels = cpu::tile_kernels(dtype);
  constexpr std::int64_t kRows = 24, kWords = 1024;
  cpu::ForwardStep step;
  step.num_rows = kRows;
  step.qk_words = kWords;
  step.v_panels = 1;
  step.value_panel_stride = kernels.words(cpu::kStepKeys) * cpu::kLanes;
  const std::vector<cpu::ColumnRange> visible(kRows, {0, cpu::kStepKeys});
  step.visible = visible.data();
  constexpr int kRepeats = 100;
  const auto work = [&](std::int64_t) {
    std::vector<cpu::Word> queries(kRows * kWords), keys(cpu::kStepKeys * kWords),
        values(static_cast<std::size_t>(step.value_panel_stride));
    std::vector<float> max(kRows, 0), sum(kRows * cpu::kLanes), out(kRows * cpu::kLanes);
    cpu::ForwardStep mine = step;
    mine.queries = queries.data();
    mine.keys = keys.data();
    mine.values = values.data();
    mine.max = max.data();
    mine.sum = sum.data();
    mine.out = out.data();
    for (int i = 0; i < kRepeats; ++i) kernels.forward_step(mine);
  };
  const double flops = 2.0 * kRows * cpu::kStepKeys *
                       static_cast<double>(kWords * kernels.word_elements) * kRepeats *
                       num_threads();
  const Timing timing = time_of([&] { parallel_for(num_threads(), work); }, 0.5);
  return flops / timing.best_s * 1e-9;
}

// GB/s at which all threads together read memory that no cache holds.
double read_rate() {
  constexpr std::int64_t kSize = std::int64_t{256} << 20, kPiece = std::int64_t{1} << 20;
  const std::vector<std::uint64_t> memory(kSize / 8, 1);
  std::vector<std::uint64_t> sums(kSize / kPiece);
  const auto read = [&](std::int64_t i) {
    std::uint64_t sum = 0;
    for (std::int64_t j = i * kPiece / 8; j < (i + 1) * kPiece / 8; ++j) {
      sum += memory[static_cast<std::size_t>(j)];
    }
    sums[static_cast<std::size_t>(i)] = sum;
  };
  const Timing timing = time_of([&] { parallel_for(kSize / kPiece, read); }, 0.5);
  return static_cast<double>(kSize) / timing.best_s * 1e-9;
}

struct Floors {
  double bf16_gflops, fp32_gflops, read_gbs;
};

Json measure(const Workload& workload, const Floors& floors) {
  check(workload);
  Run run(workload, workload.len);
  run.forward();
  const Timing timing = time_of([&] { run.timed(); }, 0.7);
  const double product = run.flops() * 1e-9 /
                         (workload.dtype == DType::kF32 ? floors.fp32_gflops : floors.bf16_gflops);
  const double floor_s = workload.pass == Pass::kDecode
                             ? std::max(product, run.kv_bytes() * 1e-9 / floors.read_gbs)
                             : product;
  Json row;
  row["name"] = workload.name;
  row["dtype"] = dtype_name(workload.dtype);
  row["median_ms"] = timing.median_s * 1e3;
  row["best_ms"] = timing.best_s * 1e3;
  row["gflops"] = run.flops() / timing.median_s * 1e-9;
  if (workload.pass == Pass::kDecode) row["gbs"] = run.kv_bytes() / timing.median_s * 1e-9;
  row["floor_ms"] = floor_s * 1e3;
  row["share_of_floor"] = floor_s / timing.median_s;
  return row;
}

void print_table(const Json& report) {
  Table table({"workload", "median ms", "best ms", "GFLOP/s", "GB/s", "floor ms", "of floor"});
  for (const Json& row : report["workloads"]) {
    const auto number = [&](const char* name, const char* format) {
      return row.contains(name) ? fmt::format(fmt::runtime(format), row[name].get<double>()) : "";
    };
    table.add_row({row["name"].get<std::string>(), number("median_ms", "{:.3f}"),
                   number("best_ms", "{:.3f}"), number("gflops", "{:.1f}"), number("gbs", "{:.1f}"),
                   number("floor_ms", "{:.3f}"), number("share_of_floor", "{:.2f}")});
  }
  fmt::print("{} threads, {}; product bf16 {:.0f}, fp32 {:.0f} GFLOP/s; memory {:.1f} GB/s\n\n{}",
             report["threads"].get<int>(), report["instruction_set"].get<std::string>(),
             report["product_bf16_gflops"].get<double>(),
             report["product_fp32_gflops"].get<double>(), report["read_gbs"].get<double>(),
             table.to_string());
}

}  // namespace
}  // namespace loza

int main(int argc, char** argv) {
  using namespace loza;
  CLI::App app("Checks and times attention on the CPU.");
  std::string only, set_name;
  int threads = 0;
  bool as_json = false, is_busy = false;
  app.add_option("--only", only, "workloads whose name contains this");
  app.add_option("--set", set_name, "instruction set: portable, avx2, avx512, avx512-bf16");
  app.add_option("--threads", threads, "number of threads");
  app.add_flag("--json", as_json, "print JSON");
  app.add_flag("--busy", is_busy, "one thread, timed by the processor time that it gets");
  CLI11_PARSE(app, argc, argv);

  if (threads > 0) set_num_threads(threads);
  if (is_busy) {
    set_num_threads(1);
    clock_in_use = Clock::kThread;
  }
  for (const cpu::InstructionSet set : cpu::supported_instruction_sets()) {
    if (set_name == cpu::instruction_set_name(set)) cpu::set_instruction_set(set);
  }
  const Floors floors{product_rate(DType::kBF16), product_rate(DType::kF32), read_rate()};
  Json report;
  report["threads"] = num_threads();
  report["instruction_set"] = cpu::instruction_set_name(cpu::instruction_set());
  report["product_bf16_gflops"] = floors.bf16_gflops;
  report["product_fp32_gflops"] = floors.fp32_gflops;
  report["read_gbs"] = floors.read_gbs;
  report["workloads"] = Json::array();
  for (const Workload& workload : kWorkloads) {
    if (std::string(workload.name).find(only) == std::string::npos) continue;
    report["workloads"].push_back(measure(workload, floors));
  }
  if (as_json) {
    fmt::print("{}\n", report.dump(2));
  } else {
    print_table(report);
  }
  return 0;
}
