// Prefill on the GPU: milliseconds of one call, over operands that the L2 does not hold.
//
//   prefill_cuda                  the cases of the table
//   prefill_cuda --only=TEXT      cases whose name contains TEXT
//   prefill_cuda --growth         streaming from 4K to 1M tokens, and the exponent of its growth
//   prefill_cuda --sustained      also after 1.5 s of work without a rest
//
// A case is checked against the definition in fp64 before it is timed.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "tests/attention/cuda/low_precision.cuh"
#include "tests/attention/cuda/prefill_reference.cuh"

namespace loza::attention::cuda {
namespace {

struct BenchCase {
  const char* name;
  std::int64_t tokens, heads, key_heads, qk_size, v_size;
  BlockPattern pattern;
  bool shared_tail = false, sink_queries = false;
};

constexpr std::int64_t kThousand = 1024;
const std::vector<BenchCase> kCases = {
    {"stream 16K h16 192/128", 16 * kThousand, 16, 16, 192, 128, {}},
    {"stream 64K h16 192/128", 64 * kThousand, 16, 16, 192, 128, {}},
    {"stream 64K h16 192/128, shared tail", 64 * kThousand, 16, 16, 192, 128, {}, true},
    {"stream 64K h16 192/128, sink queries", 64 * kThousand, 16, 16, 192, 128, {}, false, true},
    {"stream 256K h16 192/128", 256 * kThousand, 16, 16, 192, 128, {}},
    {"stream 64K h32/8 128/128", 64 * kThousand, 32, 8, 128, 128, {}},
    {"stream 64K h16 64/64", 64 * kThousand, 16, 16, 64, 64, {}},
    {"full 16K h16 192/128", 16 * kThousand, 16, 16, 192, 128, BlockPattern::full()},
    {"full 64K h16 192/128", 64 * kThousand, 16, 16, 192, 128, BlockPattern::full()},
    {"full 64K h32/8 128/128", 64 * kThousand, 32, 8, 128, 128, BlockPattern::full()},
    {"full 64K h9/3 64/64", 64 * kThousand, 9, 3, 64, 64, BlockPattern::full()},
    {"full 64K h16 64/64", 64 * kThousand, 16, 16, 64, 64, BlockPattern::full()},
};

// What an H200 reaches: a copy's reads and writes, and a large matrix product.
constexpr double kBytesPerMs = 4.23e9, kFlopsPerMs = 8.0e11;
constexpr double kRotationBytes = 3.0 * 60 * 1024 * 1024;

// Modules with operands of their own, as many as exceed the L2 together.
class Bench {
 public:
  explicit Bench(const BenchCase& bench) : bench_(bench) {
    const std::int64_t t = bench.tokens, h = bench.heads, g = bench.key_heads;
    num_modules_ = std::max<std::int64_t>(1, std::llround(kRotationBytes / bytes() + 0.5));
    const auto make = [&](std::int64_t size, std::uint64_t seed) {
      DeviceArray<bf16> array(num_modules_ * size);
      fill_random(array, seed);
      return array;
    };
    q_ = make(t * h * bench.qk_size, 1);
    if (bench.sink_queries) sink_q_ = make(t * h * bench.qk_size, 2);
    k_ = make(t * g * key_size(), 3);
    if (bench.shared_tail) tail_ = make(t * 64, 4);
    v_ = make(t * g * bench.v_size, 5);
    out_ = DeviceArray<bf16>(num_modules_ * t * h * bench.v_size);
    out_.fill_bytes(0xFF);
    lse_ = DeviceArray<float>(t * h);
    LOZA_CUDA_CHECK(cudaStreamCreate(&stream_));
    LOZA_CUDA_CHECK(cudaDeviceSynchronize());
  }
  ~Bench() { cudaStreamDestroy(stream_); }

  std::int64_t key_size() const { return bench_.qk_size - (bench_.shared_tail ? 64 : 0); }
  double bytes() const {
    const std::int64_t row =
        bench_.heads * (bench_.qk_size * (bench_.sink_queries ? 2 : 1) + bench_.v_size) +
        bench_.key_heads * (key_size() + bench_.v_size) + (bench_.shared_tail ? 64 : 0);
    return 2.0 * static_cast<double>(bench_.tokens * row);
  }
  double flops() const {
    double keys = 0;
    for (std::int64_t pos = 0; pos < bench_.tokens; ++pos) {
      keys += static_cast<double>(num_visible_keys(bench_.pattern, pos));
    }
    return 2.0 * static_cast<double>(bench_.heads * (bench_.qk_size + bench_.v_size)) * keys;
  }
  double floor_ms() const { return std::max(bytes() / kBytesPerMs, flops() / kFlopsPerMs); }

  // Worst error over bound of a few rows; above 1 is wrong.
  double check() {
    launch(num_modules_ - 1, nullptr);
    const ForwardParams last = params(num_modules_ - 1);
    std::vector<ReferenceRow> rows;
    for (const std::int64_t row :
         {std::int64_t{0}, bench_.tokens / 3, bench_.tokens / 2 + 127, bench_.tokens - 1}) {
      for (const std::int64_t head : {std::int64_t{0}, bench_.heads - 1}) {
        rows.push_back({row, head, row, 0, 0, 0});
      }
    }
    std::vector<const bf16*> out_rows;
    for (const ReferenceRow& at : rows) {
      out_rows.push_back(static_cast<const bf16*>(last.out.data) + at.row * last.out.token_stride +
                         at.head * last.out.head_stride);
    }
    return worst_error(out_rows, prefill_truth(last, tail(num_modules_ - 1), rows, bench_.tokens),
                       Bounds(DType::kBF16, bench_.tokens));
  }

  // Median milliseconds of one call, in bursts of about 15 ms with rests between.
  double burst_ms() {
    const int calls = std::clamp(static_cast<int>(10 / floor_ms()), 1, 400);
    run(calls);
    std::vector<double> ms;
    for (int i = 0; i < 12; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(60));
      ms.push_back(run(calls));
    }
    std::sort(ms.begin(), ms.end());
    return ms[ms.size() / 2];
  }

  // Milliseconds of one call at the end of 1.5 s without a rest.
  double sustained_ms() {
    const int calls = std::max(1, static_cast<int>(500 / floor_ms()));
    run(calls);
    run(calls);
    return run(calls);
  }

 private:
  template <typename T>
  static void* at(const DeviceArray<T>& array, std::int64_t module, std::int64_t num_modules) {
    return array.data() + module * (static_cast<std::int64_t>(array.size()) / num_modules);
  }

  ForwardParams params(std::int64_t module) const {
    ForwardParams params;
    params.dtype = DType::kBF16;
    params.num_sequences = 1;
    params.num_heads = bench_.heads;
    params.num_key_heads = bench_.key_heads;
    params.qk_size = bench_.qk_size;
    params.v_size = bench_.v_size;
    params.q_offsets = params.k_offsets = offsets_;
    params.pattern = bench_.pattern;
    params.scale = 1 / std::sqrt(static_cast<double>(bench_.qk_size));
    const auto view = [&](const DeviceArray<bf16>& array, std::int64_t heads, std::int64_t size) {
      return TensorView{at(array, module, num_modules_), heads * size, size};
    };
    params.q = view(q_, bench_.heads, bench_.qk_size);
    if (bench_.sink_queries) params.sink_q = view(sink_q_, bench_.heads, bench_.qk_size);
    params.k = view(k_, bench_.key_heads, key_size());
    params.v = view(v_, bench_.key_heads, bench_.v_size);
    params.out = view(out_, bench_.heads, bench_.v_size);
    params.lse = lse_.data();
    return params;
  }
  SharedKeyTail tail(std::int64_t module) const {
    if (!bench_.shared_tail) return {};
    return {at(tail_, module, num_modules_), 64};
  }

  void launch(std::int64_t module, cudaStream_t stream) {
    const Status status = prefill(params(module), tail(module), stream);
    if (!status.ok()) {
      std::fprintf(stderr, "%s: %s\n", bench_.name, status.message);
      std::exit(1);
    }
  }

  // Milliseconds a call of many in a row.
  double run(int calls) {
    cudaEvent_t begin, end;
    LOZA_CUDA_CHECK(cudaEventCreate(&begin));
    LOZA_CUDA_CHECK(cudaEventCreate(&end));
    LOZA_CUDA_CHECK(cudaEventRecord(begin, stream_));
    for (int i = 0; i < calls; ++i) launch(i % num_modules_, stream_);
    LOZA_CUDA_CHECK(cudaEventRecord(end, stream_));
    LOZA_CUDA_CHECK(cudaStreamSynchronize(stream_));
    float ms;
    LOZA_CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
    LOZA_CUDA_CHECK(cudaEventDestroy(begin));
    LOZA_CUDA_CHECK(cudaEventDestroy(end));
    return ms / calls;
  }

  BenchCase bench_;
  std::int64_t offsets_[2] = {0, bench_.tokens};
  std::int64_t num_modules_;
  DeviceArray<bf16> q_, sink_q_, k_, tail_, v_, out_;
  DeviceArray<float> lse_;
  cudaStream_t stream_;
};

double report(const BenchCase& bench, Bench& run, bool sustained) {
  const double error = run.check(), ms = run.burst_ms(), floor = run.floor_ms();
  std::printf("| %-36s | %7.3f | %7.3f |", bench.name, floor, ms);
  if (sustained) std::printf(" %7.3f |", run.sustained_ms());
  std::printf(" %4.0f | %4.0f | %4.1f %% | %.2f%s |\n", run.flops() / ms / 1e9,
              run.bytes() / ms / 1e6, 100 * floor / ms, error, error <= 1 ? "" : " WRONG");
  std::fflush(stdout);
  return ms;
}

// Slope of log(ms) over log(tokens) by least squares.
void report_growth() {
  std::vector<std::pair<double, double>> points;
  for (std::int64_t tokens = 4 * kThousand; tokens <= 1024 * kThousand; tokens *= 4) {
    const BenchCase bench = {"growth", tokens, 16, 16, 192, 128, {}};
    Bench run(bench);
    const double ms = run.burst_ms();
    std::printf("growth: %7lld tokens %8.3f ms\n", static_cast<long long>(tokens), ms);
    std::fflush(stdout);
    points.emplace_back(std::log(static_cast<double>(tokens)), std::log(ms));
  }
  double x = 0, y = 0, xx = 0, xy = 0;
  const auto n = static_cast<double>(points.size());
  for (const auto& [log_tokens, log_ms] : points) {
    x += log_tokens;
    y += log_ms;
    xx += log_tokens * log_tokens;
    xy += log_tokens * log_ms;
  }
  std::printf("growth: exponent %.3f\n", (n * xy - x * y) / (n * xx - x * x));
}

int main(int argc, char** argv) {
  bool growth = false, sustained = false;
  std::string only;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--growth") == 0) growth = true;
    if (std::strcmp(argv[i], "--sustained") == 0) sustained = true;
    if (std::strncmp(argv[i], "--only=", 7) == 0) only = argv[i] + 7;
  }
  cudaDeviceProp device;
  LOZA_CUDA_CHECK(cudaGetDeviceProperties(&device, 0));
  std::printf("%s, %d SMs; floor: %.0f TF or %.2f TB/s\n", device.name, device.multiProcessorCount,
              kFlopsPerMs / 1e9, kBytesPerMs / 1e9);
  if (growth) {
    report_growth();
    return 0;
  }
  std::printf("| case | floor ms | ms |%s TF | GB/s | of floor | error / bound |\n",
              sustained ? " sustained |" : "");
  for (const BenchCase& bench : kCases) {
    if (std::string(bench.name).find(only) == std::string::npos) continue;
    Bench run(bench);
    report(bench, run, sustained);
  }
  return 0;
}

}  // namespace
}  // namespace loza::attention::cuda

int main(int argc, char** argv) { return loza::attention::cuda::main(argc, argv); }
