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
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "bench/machine_rates.h"
#include "loza/attention/attention.h"
#include "loza/attention/cpu/instruction_set.h"
#include "loza/base/check.h"
#include "loza/base/json.h"
#include "loza/base/parallel_for.h"
#include "loza/base/random.h"
#include "loza/base/table.h"
#include "loza/engine/page_pool.h"

namespace loza::bench {
namespace {

using attention::Sequences;

// Sizes of attention: H query heads, G key heads, D, V.
struct Sizes {
  std::int64_t heads, key_heads, qk_size, v_size;

  double scale() const { return 1 / std::sqrt(static_cast<double>(qk_size)); }
  std::int64_t group() const { return heads / key_heads; }
};

constexpr Sizes kExpanded{8, 8, 192, 128};  // MLA in prefill and training
constexpr Sizes kAbsorbed{8, 1, 576, 512};  // MLA in decode: the value is the key's beginning
constexpr Sizes kGrouped{32, 8, 128, 128};

constexpr at::ScalarType kBoth[] = {at::kBFloat16, at::kFloat};

const char* name_of(at::ScalarType dtype) { return dtype == at::kBFloat16 ? "bf16" : "fp32"; }
const char* name_of(const BlockPattern& pattern) {
  return pattern.is_full() ? "full" : "streaming";
}

// Key-query pairs of queries at [first_pos, len).
double num_pairs(const BlockPattern& pattern, std::int64_t first_pos, std::int64_t len) {
  double pairs = 0;
  for (std::int64_t pos = first_pos; pos < len; ++pos) {
    pairs += static_cast<double>(num_visible_keys(pattern, pos));
  }
  return pairs;
}

// ---------------------------------------------------------------------------------------------
// Timing

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

// Things that are timed in turn.
class Rounds {
 public:
  void add(const std::string& name, std::function<void()> body) {
    names_.push_back(name);
    bodies_.push_back(std::move(body));
    seconds_.emplace_back();
  }
  // The first once to warm up, then at least 3 rounds, for about `budget_s`.
  void run(double budget_s) {
    bodies_.front()();
    double total = 0;
    while (total < budget_s || seconds_.front().size() < 3) {
      for (std::size_t i = 0; i < bodies_.size(); ++i) {
        seconds_[i].push_back(seconds_of(bodies_[i]));
        total += seconds_[i].back();
      }
    }
  }
  double seconds(const std::string& name) const { return median(of(name)); }
  // How many times longer `slow` takes than `fast`.
  double ratio(const std::string& slow, const std::string& fast) const {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < of(slow).size(); ++i) ratios.push_back(of(slow)[i] / of(fast)[i]);
    return median(ratios);
  }

 private:
  const std::vector<double>& of(const std::string& name) const {
    const auto found = std::find(names_.begin(), names_.end(), name);
    LOZA_CHECK(found != names_.end(), name);
    return seconds_[static_cast<std::size_t>(found - names_.begin())];
  }

  std::vector<std::string> names_;
  std::vector<std::function<void()>> bodies_;
  std::vector<std::vector<double>> seconds_;
};

// Results on their way to JSON and to the table.
class Report {
 public:
  Report(std::string only, double budget_s) : only_(std::move(only)), budget_s_(budget_s) {}

  double budget_s() const { return budget_s_; }
  bool wants(const std::string& name) const { return name.find(only_) != std::string::npos; }
  Json& add(const std::string& name) {
    cases_.push_back(Json{{"name", name}});
    return cases_.back();
  }
  const Json& cases() const { return cases_; }

 private:
  std::string only_;
  double budget_s_;
  Json cases_ = Json::array();
};

enum class Bound { kAtLeast, kAtMost };

// One line of what is asked for.
void add_bar(Json& row, const std::string& what, double value, double bar,
             Bound bound = Bound::kAtLeast) {
  const bool is_met = bound == Bound::kAtLeast ? value >= bar : value <= bar;
  row["bars"].push_back(
      Json{{"what", what},
           {"value", value},
           {"bar", fmt::format("{} {}", bound == Bound::kAtLeast ? ">=" : "<=", bar)},
           {"met", is_met}});
}

// ---------------------------------------------------------------------------------------------
// Prefill

// Queries, keys and values of one sequence, [T, heads, size].
struct Prompt {
  Sizes sizes;
  std::int64_t len;
  at::Tensor q, k, v;

  Prompt(const Sizes& of, std::int64_t length, at::ScalarType dtype)
      : sizes(of),
        len(length),
        q(at::randn({length, of.heads, of.qk_size}).to(dtype)),
        k(at::randn({length, of.key_heads, of.qk_size}).to(dtype)),
        v(at::randn({length, of.key_heads, of.v_size}).to(dtype)) {}

  at::Tensor ours(const BlockPattern& pattern) const {
    return attention::attend(q, k, v, Sequences::whole({0, len}), pattern, sizes.scale());
  }
  // libtorch's, [1, H, T, size]. `mask`: undefined for causal.
  at::Tensor torch(const at::Tensor& mask) const {
    const auto heads_first = [](const at::Tensor& x) { return x.transpose(0, 1).unsqueeze(0); };
    return at::scaled_dot_product_attention(
        heads_first(q), heads_first(k), heads_first(v),
        mask.defined() ? std::optional<at::Tensor>(mask) : std::nullopt, 0.0, !mask.defined(),
        sizes.scale());
  }
  // The same with values as long as keys: libtorch's fused kernel wants equal sizes.
  Prompt with_padded_values() const {
    Prompt padded = *this;
    padded.v = at::constant_pad_nd(v, {0, sizes.qk_size - sizes.v_size});
    return padded;
  }
  Prompt in_fp64() const {
    Prompt exact = *this;
    for (at::Tensor* x : {&exact.q, &exact.k, &exact.v}) *x = x->detach().to(at::kDouble);
    return exact;
  }
  void ask_for_gradients() {
    for (at::Tensor* x : {&q, &k, &v}) x->requires_grad_(true);
  }
};

at::Tensor boolean_mask(const BlockPattern& pattern, std::int64_t len) {
  const at::Tensor pos = at::arange(len);
  const at::Tensor block = at::floor_divide(pos, pattern.block_size);
  const at::Tensor query_block = block.unsqueeze(1), key_block = block.unsqueeze(0);
  return pos.unsqueeze(0)
      .le(pos.unsqueeze(1))
      .logical_and(key_block.lt(pattern.sink_blocks)
                       .logical_or(key_block.ge(query_block - pattern.recent_blocks + 1)));
}

constexpr std::int64_t kCheckedLen = 1300;

void expect_close(const std::string& what, const at::Tensor& ours, const at::Tensor& exact,
                  at::ScalarType dtype) {
  const double largest = exact.abs().max().item<double>();
  const double error = (ours.to(at::kDouble) - exact).abs().max().item<double>() / largest;
  LOZA_CHECK(error <= (dtype == at::kFloat ? 2e-5 : 2e-2), what, error);
}

void check_prompt(const std::string& name, const Sizes& sizes, at::ScalarType dtype,
                  const BlockPattern& pattern) {
  Sizes few = sizes;
  few.heads = few.group();
  few.key_heads = 1;
  Prompt prompt(few, kCheckedLen, dtype);
  expect_close(name, prompt.ours(pattern), prompt.in_fp64().ours(pattern), dtype);
}

double forward_flops(const Sizes& sizes, double pairs) {
  return 2 * pairs * static_cast<double>((sizes.qk_size + sizes.v_size) * sizes.heads);
}
double backward_flops(const Sizes& sizes, double pairs) {
  return 2 * pairs * static_cast<double>((3 * sizes.qk_size + 2 * sizes.v_size) * sizes.heads);
}

void add_speed(Json& row, double seconds, double flops, double floor_s) {
  row["median_ms"] = seconds * 1e3;
  row["gflops"] = flops / seconds * 1e-9;
  row["floor_ms"] = floor_s * 1e3;
  row["share_of_floor"] = floor_s / seconds;
}

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
    const double flops = forward_flops(kExpanded, num_pairs(pattern, 0, kLen));
    const double matmul_s = flops / rates.of(dtype).matmul_flops;
    Json& row = report.add(name);
    add_speed(row, rounds.seconds("ours"), flops, flops / rates.of(dtype).fma_flops);
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
  const double flops = forward_flops(sizes, pairs);
  Json& row = report.add(name);
  add_speed(row, rounds.seconds("ours"), flops, flops / rates.of(dtype).fma_flops);
  row["full_ms"] = rounds.seconds("full") * 1e3;
  row["torch_ms"] = rounds.seconds("torch") * 1e3;
  row["pairs_full_to_streaming"] = all_pairs / pairs;
  add_bar(row, "faster than our full", rounds.ratio("full", "ours"), 12);
  add_bar(row, "faster than torch's sdpa with the boolean mask", rounds.ratio("torch", "ours"), 15);
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

// ---------------------------------------------------------------------------------------------
// Forward and backward

using Gradients = std::vector<at::Tensor>;

// The gradients that `out` gives to the prompt's tensors; out's own gradient is d_out.
Gradients gradients_of(const Prompt& prompt, const at::Tensor& out, const at::Tensor& d_out) {
  for (const at::Tensor* x : {&prompt.q, &prompt.k, &prompt.v}) x->mutable_grad() = at::Tensor();
  out.backward(d_out);
  return {prompt.q.grad(), prompt.k.grad(), prompt.v.grad()};
}

void check_gradients(const std::string& name, at::ScalarType dtype, const BlockPattern& pattern) {
  Sizes few = kExpanded;
  few.heads = few.key_heads = 1;
  Prompt prompt(few, kCheckedLen, dtype);
  Prompt exact = prompt.in_fp64();
  prompt.ask_for_gradients();
  exact.ask_for_gradients();
  const at::Tensor d_out = at::randn({kCheckedLen, 1, few.v_size}).to(dtype);
  const Gradients ours = gradients_of(prompt, prompt.ours(pattern), d_out);
  const Gradients expected = gradients_of(exact, exact.ours(pattern), d_out.to(at::kDouble));
  for (std::size_t i = 0; i < ours.size(); ++i) expect_close(name, ours[i], expected[i], dtype);
}

void train(Report& report, const MachineRates& rates) {
  constexpr std::int64_t kLen = 4096;
  for (const BlockPattern& pattern : {BlockPattern::full(), BlockPattern{}}) {
    for (const at::ScalarType dtype : kBoth) {
      const std::string name =
          fmt::format("forward and backward {} 4K {}", name_of(pattern), name_of(dtype));
      if (!report.wants(name)) continue;
      check_gradients(name, dtype, pattern);
      Prompt prompt(kExpanded, kLen, dtype);
      Prompt padded = prompt.with_padded_values();
      prompt.ask_for_gradients();
      padded.ask_for_gradients();
      const at::Tensor mask = pattern.is_full() ? at::Tensor() : boolean_mask(pattern, kLen);
      const auto torch_way = [&mask](const Prompt& of) {
        const at::Tensor out = of.torch(mask);
        gradients_of(of, out, at::ones_like(out));
      };
      Rounds rounds;
      rounds.add("ours", [&] {
        const at::Tensor out = prompt.ours(pattern);
        gradients_of(prompt, out, at::ones_like(out));
      });
      rounds.add("forward alone", [&] {
        const at::NoGradGuard no_grad;
        prompt.ours(pattern);
      });
      rounds.add("torch", [&] { torch_way(prompt); });
      rounds.add("torch, padded values", [&] { torch_way(padded); });
      rounds.run(report.budget_s());
      const double pairs = num_pairs(pattern, 0, kLen);
      const double flops = forward_flops(kExpanded, pairs) + backward_flops(kExpanded, pairs);
      Json& row = report.add(name);
      add_speed(row, rounds.seconds("ours"), flops, flops / rates.of(dtype).fma_flops);
      row["forward_ms"] = rounds.seconds("forward alone") * 1e3;
      row["torch_ms"] = rounds.seconds("torch") * 1e3;
      row["torch_padded_ms"] = rounds.seconds("torch, padded values") * 1e3;
      add_bar(row, "faster than torch's autograd over sdpa (the better of two)",
              std::min(rounds.ratio("torch", "ours"), rounds.ratio("torch, padded values", "ours")),
              pattern.is_full() ? 1.2 : 5);
    }
  }
}

// ---------------------------------------------------------------------------------------------
// Decode

// One sequence's cache in pages that lie in random order. A call reads other pages than the one
// before it, so that a short window does not stay in a cache between calls.
class Cache {
 public:
  Cache(const Sizes& sizes, std::int64_t len, at::ScalarType dtype)
      : sizes_(sizes), is_latent_(sizes.qk_size > 512), num_pages_(len / kPageLen) {
    LOZA_CHECK(len % kPageLen == 0, len);
    const std::int64_t row =
        is_latent_ ? sizes.qk_size : sizes.key_heads * (sizes.qk_size + sizes.v_size);
    // The engine's memory.
    const auto bytes = num_pages_ * kPageLen * row *
                       static_cast<std::int64_t>(element_bytes(attention::dtype_of(dtype)));
    const std::shared_ptr<std::byte> memory = allocate_system_memory(bytes);
    pages_ = at::from_blob(
        memory.get(), {num_pages_, kPageLen, row}, [memory](void*) {}, dtype);
    // Random numbers for one page, a little different in each: a gigabyte of them takes long.
    const at::Tensor page = at::randn({kPageLen, row});
    for (std::int64_t i = 0; i < num_pages_; ++i) {
      pages_[i].copy_(page * (1 + 0.1 * std::sin(static_cast<double>(i))));
    }
    Random random(7);
    table_.resize(static_cast<std::size_t>(num_pages_));
    std::iota(table_.begin(), table_.end(), 0);
    random.shuffle(table_);
    table_.insert(table_.end(), table_.begin(), table_.end());
    q_ = at::randn({1, sizes.heads, sizes.qk_size}).to(dtype);
  }

  // One new token at the end of `len` tokens. REQUIRES: len is at most the cache's.
  at::Tensor step(const BlockPattern& pattern, std::int64_t len) {
    const PagedKvView kv = view(len);
    first_page_ = (first_page_ + 37) % num_pages_;
    return attention::attend_paged(q_, kv, 1, sizes_.key_heads, sizes_.v_size, pattern,
                                   sizes_.scale());
  }
  // What the next step will compute, by definition: attention over the rows that its table names.
  at::Tensor exact(const BlockPattern& pattern, std::int64_t len) const {
    const at::Tensor rows =
        pages_
            .index_select(0, at::tensor(std::vector<std::int64_t>(
                                 table_.begin() + first_page_,
                                 table_.begin() + first_page_ + len / kPageLen)))
            .reshape({len, -1})
            .to(at::kDouble);
    const std::int64_t heads = sizes_.key_heads;
    const at::Tensor k = rows.narrow(1, 0, heads * sizes_.qk_size).view({len, heads, -1});
    const at::Tensor v =
        rows.narrow(1, is_latent_ ? 0 : heads * sizes_.qk_size, heads * sizes_.v_size)
            .view({len, heads, -1});
    Sequences sequences;
    sequences.q_offsets = {0, 1};
    sequences.k_offsets = {0, len};
    return attention::attend(q_.to(at::kDouble), k, v, sequences, pattern, sizes_.scale());
  }
  double row_bytes() const { return static_cast<double>(pages_.size(2) * pages_.element_size()); }

 private:
  static constexpr std::int64_t kPageLen = 64;

  PagedKvView view(const std::int64_t& len) const {
    PagedKvView kv;
    kv.dtype = attention::dtype_of(pages_.scalar_type());
    kv.pages = pages_.data_ptr();
    kv.page_stride = pages_.stride(0);
    kv.row_stride = pages_.stride(1);
    kv.page_len = kPageLen;
    kv.k_head_stride = sizes_.qk_size;
    kv.v_head_stride = sizes_.v_size;
    kv.v_offset = is_latent_ ? 0 : sizes_.key_heads * sizes_.qk_size;
    kv.page_table = table_.data() + first_page_;
    kv.table_stride = num_pages_;
    kv.lengths = &len;
    return kv;
  }

  Sizes sizes_;
  bool is_latent_;
  std::int64_t num_pages_, first_page_ = 0;
  at::Tensor pages_, q_;
  std::vector<std::int32_t> table_;  // twice over
};

void check_cache(const std::string& name, const Sizes& sizes, at::ScalarType dtype,
                 const BlockPattern& pattern) {
  Cache cache(sizes, 4096, dtype);
  for (int i = 0; i < 3; ++i) {
    const at::Tensor exact = cache.exact(pattern, 2048);
    expect_close(name, cache.step(pattern, 2048), exact, dtype);
  }
}

// Multiply-adds and bytes of a step's floor, whichever takes longer.
double decode_floor_s(const Sizes& sizes, const MachineRates& rates, at::ScalarType dtype,
                      double keys, double row_bytes) {
  return std::max(forward_flops(sizes, keys) / rates.of(dtype).fma_flops,
                  keys * row_bytes / rates.read_bytes);
}

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
      const auto keys = static_cast<double>(c.len);
      const double seconds = rounds.seconds("ours");
      const double floor_s = decode_floor_s(c.sizes, rates, dtype, keys, cache.row_bytes());
      Json& row = report.add(name);
      add_speed(row, seconds, forward_flops(c.sizes, keys), floor_s);
      row["gbs"] = keys * cache.row_bytes() / seconds * 1e-9;
      add_bar(row, "share of the floor", floor_s / seconds, 0.7);
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
  const double keys = static_cast<double>(num_visible_keys({}, kFullLen - 1));
  const double seconds = rounds.seconds(std::to_string(kFullLen)) / kSteps;
  Json& row = report.add(name);
  add_speed(row, seconds, forward_flops(kAbsorbed, keys),
            decode_floor_s(kAbsorbed, rates, dtype, keys, cache.row_bytes()));
  row["gbs"] = keys * cache.row_bytes() / seconds * 1e-9;
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

// ---------------------------------------------------------------------------------------------
// Threads

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

// ---------------------------------------------------------------------------------------------

constexpr void (*kCases[])(Report&, const MachineRates&) = {
    prefill_full, prefill_streaming, prefill_growth, train, decode_streaming, decode_full, threads};

std::string number_of(const Json& row, const char* key, const char* format) {
  return row.contains(key) ? fmt::format(fmt::runtime(format), row[key].get<double>()) : "";
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
      "{} threads, {}\nmultiply-adds: bf16 {:.0f}, fp32 {:.0f} GFLOP/s; libtorch's matmul on the "
      "two products: bf16 {:.0f}, fp32 {:.0f}; reading memory: {:.1f} GB/s\n\n{}\n{}",
      machine["threads"].get<int>(), machine["instruction_set"].get<std::string>(),
      machine["bf16_fma_gflops"].get<double>(), machine["fp32_fma_gflops"].get<double>(),
      machine["bf16_matmul_gflops"].get<double>(), machine["fp32_matmul_gflops"].get<double>(),
      machine["read_gbs"].get<double>(), speeds.to_string(), bars.to_string());
}

Json machine_of(const MachineRates& rates) {
  return Json{{"threads", num_threads()},
              {"instruction_set", cpu::instruction_set_name(cpu::instruction_set())},
              {"bf16_fma_gflops", rates.bf16.fma_flops * 1e-9},
              {"fp32_fma_gflops", rates.fp32.fma_flops * 1e-9},
              {"bf16_matmul_gflops", rates.bf16.matmul_flops * 1e-9},
              {"fp32_matmul_gflops", rates.fp32.matmul_flops * 1e-9},
              {"read_gbs", rates.read_bytes * 1e-9}};
}

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
  const Json json{{"machine", machine_of(rates)}, {"cases", report.cases()}};
  if (as_json) {
    fmt::print("{}\n", json.dump(2));
  } else {
    print_tables(json);
  }
  return 0;
}
