// Paged decode on the GPU: microseconds of one call in a CUDA graph of many, each on other
// pages, so that nothing is found in the L2. Everything that a step needs is in the graph.
//
//   decode_cuda                  the cases of the table, each under its default plan
//   decode_cuda --sweep          each case under many plans
//   decode_cuda --only=TEXT      cases whose name contains TEXT
//   decode_cuda --hot-queries    the same queries for every module: as found in the L2 where the
//                                preceding kernel has just written them
//
// A case is checked against the definition in fp64 before it is timed.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "tests/attention/cuda/decode_case.cuh"

namespace loza::attention::cuda {
namespace {

struct BenchCase {
  const char* name;
  std::int64_t batch, heads, key_heads, q_len, length;
  BlockPattern pattern;
  std::int64_t qk_size = 576, v_size = 512;
};

// The length of a streaming case is a full window: 1,024 visible keys, the most there are.
const std::int64_t kStreamingLength = 8192;
const std::int64_t kLong = 131072;
const std::vector<BenchCase> kCases = {
    {"stream B1 h8", 1, 8, 1, 1, kStreamingLength, {}},
    {"stream B1 h16", 1, 16, 1, 1, kStreamingLength, {}},
    {"stream B1 h128", 1, 128, 1, 1, kStreamingLength, {}},
    {"stream B8 h8", 8, 8, 1, 1, kStreamingLength, {}},
    {"stream B8 h16", 8, 16, 1, 1, kStreamingLength, {}},
    {"stream B8 h64", 8, 64, 1, 1, kStreamingLength, {}},
    {"stream B8 h128", 8, 128, 1, 1, kStreamingLength, {}},
    {"stream B32 h8", 32, 8, 1, 1, kStreamingLength, {}},
    {"stream B32 h16", 32, 16, 1, 1, kStreamingLength, {}},
    {"stream B32 h8 q2", 32, 8, 1, 2, kStreamingLength, {}},
    {"stream B32 h32", 32, 32, 1, 1, kStreamingLength, {}},
    {"stream B32 h64", 32, 64, 1, 1, kStreamingLength, {}},
    {"stream B32 h128", 32, 128, 1, 1, kStreamingLength, {}},
    {"stream B128 h8", 128, 8, 1, 1, kStreamingLength, {}},
    {"stream B128 h16", 128, 16, 1, 1, kStreamingLength, {}},
    {"stream B32 gqa 32/8 d128", 32, 32, 8, 1, kStreamingLength, {}, 128, 128},
    {"full 4K B1 h16", 1, 16, 1, 1, 4096, BlockPattern::full()},
    {"full 4K B1 h128", 1, 128, 1, 1, 4096, BlockPattern::full()},
    {"full 32K B1 h16", 1, 16, 1, 1, 32768, BlockPattern::full()},
    {"full 128K B1 h8", 1, 8, 1, 1, kLong, BlockPattern::full()},
    {"full 128K B1 h128", 1, 128, 1, 1, kLong, BlockPattern::full()},
    {"full 128K B1 h16", 1, 16, 1, 1, kLong, BlockPattern::full()},
    {"full 128K B32 h8", 32, 8, 1, 1, kLong, BlockPattern::full()},
    {"full 128K B32 h16", 32, 16, 1, 1, kLong, BlockPattern::full()},
    {"full 128K B32 h64", 32, 64, 1, 1, kLong, BlockPattern::full()},
    {"full 128K B32 h128", 32, 128, 1, 1, kLong, BlockPattern::full()},
};

// Read-only stream measured on an H200.
constexpr double kReadBytesPerUs = 4.70e6;
constexpr std::int64_t kRotationBytes = 3ll * 60 * 1024 * 1024;
constexpr int kPageLen64 = 64;

// Modules of a step: each its own pages, queries and outputs; lengths and tables are shared.
class Bench {
 public:
  Bench(const BenchCase& bench, bool hot_queries) : bench_(bench), hot_queries_(hot_queries) {
    const std::int64_t b = bench.batch;
    row_size_ = bench.qk_size == 576 ? 576 : bench.key_heads * (bench.qk_size + bench.v_size);
    visible_ = num_visible_keys(bench.pattern, bench.length - 1);
    const bool ring = !bench.pattern.is_full();
    const std::int64_t ring_blocks = num_ring_blocks(bench.pattern, bench.q_len);
    pages_per_sequence_ = ring ? (bench.pattern.sink_blocks + ring_blocks) * 2
                               : (bench.length + kPageLen64 - 1) / kPageLen64;
    num_pages_ = b * pages_per_sequence_;
    page_size_ = kPageLen64 * row_size_;
    num_modules_ = std::clamp<std::int64_t>(kRotationBytes / bytes() + 1, 20, 400);
    num_pools_ = std::clamp<std::int64_t>(kRotationBytes / bytes() + 1, 1, 400);
    pool_ = DeviceArray<bf16>(num_pools_ * num_pages_ * page_size_);
    fill_random(pool_, 3);
    q_ = DeviceArray<bf16>(num_modules_ * tokens() * bench.heads * bench.qk_size);
    fill_random(q_, 4);
    out_ = DeviceArray<bf16>(num_modules_ * tokens() * bench.heads * bench.v_size);
    lse_ = DeviceArray<float>(num_modules_ * tokens() * bench.heads);
    std::vector<std::int32_t> table(num_pages_);
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937_64(5));
    table_ = DeviceArray<std::int32_t>(table);
    lengths_ = DeviceArray<std::int64_t>(std::vector<std::int64_t>(b, bench.length));
    LOZA_CUDA_CHECK(cudaStreamCreate(&stream_));
  }
  ~Bench() { cudaStreamDestroy(stream_); }

  std::int64_t tokens() const { return bench_.batch * bench_.q_len; }
  // Each visible key once, queries in, outputs out.
  std::int64_t bytes() const {
    return 2 * (bench_.batch * visible_ * row_size_ +
                tokens() * bench_.heads * (bench_.qk_size + bench_.v_size));
  }
  double flops() const {
    return 2.0 * static_cast<double>(tokens() * bench_.heads * visible_ *
                                     (bench_.qk_size + bench_.v_size));
  }

  DecodeParams params(std::int64_t module) const {
    DecodeParams params;
    params.num_sequences = bench_.batch;
    params.q_len = bench_.q_len;
    params.num_heads = bench_.heads;
    params.num_key_heads = bench_.key_heads;
    params.qk_size = bench_.qk_size;
    params.v_size = bench_.v_size;
    params.pattern = bench_.pattern;
    params.scale = 1 / std::sqrt(192.0);
    params.q = {q_.data() + (hot_queries_ ? 0 : module) * tokens() * bench_.heads * bench_.qk_size,
                bench_.heads * bench_.qk_size, bench_.qk_size};
    params.out = {out_.data() + module * tokens() * bench_.heads * bench_.v_size,
                  bench_.heads * bench_.v_size, bench_.v_size};
    params.lse = lse_.data() + module * tokens() * bench_.heads;
    PagedKvView& kv = params.kv;
    kv.dtype = DType::kBF16;
    kv.pages = pool_.data() + module % num_pools_ * num_pages_ * page_size_;
    kv.page_len = kPageLen64;
    kv.row_stride = row_size_;
    kv.page_stride = page_size_;
    kv.k_head_stride = bench_.qk_size;
    kv.v_offset = bench_.qk_size == 576 ? 0 : bench_.key_heads * bench_.qk_size;
    kv.v_head_stride = bench_.v_size;
    kv.page_table = table_.data();
    kv.table_stride = pages_per_sequence_;
    kv.lengths = lengths_.data();
    if (!bench_.pattern.is_full()) {
      kv.sink_pages = bench_.pattern.sink_blocks * 2;
      kv.ring_pages = pages_per_sequence_ - kv.sink_pages;
    }
    return params;
  }

  // Worst error over bound of a few rows of the last module; above 1 is wrong.
  double check(const DecodePlan& plan) {
    const DecodeParams last = params(num_modules_ - 1);
    prepare_workspace(last, plan);
    launch(last, plan, nullptr, Inputs::kFromPreviousKernel);
    const std::int64_t all = tokens() * bench_.heads;
    const std::vector<std::int64_t> rows = {0, all / 3, all / 2, all - 1};
    std::vector<const bf16*> out_rows;
    for (const std::int64_t row : rows) {
      out_rows.push_back(static_cast<const bf16*>(last.out.data) + row * bench_.v_size);
    }
    return worst_error(out_rows, decode_truth(last, rows, bench_.length),
                       Bounds(DType::kBF16, bench_.length));
  }

  // Median microseconds of one module.
  double time(const DecodePlan& plan, Inputs inputs) {
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    LOZA_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    for (std::int64_t module = 0; module < num_modules_; ++module) {
      launch(params(module), plan, stream_, inputs);
    }
    LOZA_CUDA_CHECK(cudaStreamEndCapture(stream_, &graph));
    LOZA_CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
    cudaEvent_t begin, end;
    LOZA_CUDA_CHECK(cudaEventCreate(&begin));
    LOZA_CUDA_CHECK(cudaEventCreate(&end));
    std::vector<double> us;
    double busy_ms = 0;
    for (int i = 0; i < 25; ++i) {
      LOZA_CUDA_CHECK(cudaEventRecord(begin, stream_));
      LOZA_CUDA_CHECK(cudaGraphLaunch(executable, stream_));
      LOZA_CUDA_CHECK(cudaEventRecord(end, stream_));
      LOZA_CUDA_CHECK(cudaStreamSynchronize(stream_));
      float ms;
      LOZA_CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
      busy_ms += ms;
      if (i >= 3) us.push_back(1000.0 * ms / static_cast<double>(num_modules_));
      // Bursts: about 20 ms of work, then rest, so that the clocks stay up.
      if (busy_ms > 20) {
        std::this_thread::sleep_for(std::chrono::milliseconds(ms > 10 ? 120 : 60));
        busy_ms = 0;
      }
    }
    LOZA_CUDA_CHECK(cudaEventDestroy(begin));
    LOZA_CUDA_CHECK(cudaEventDestroy(end));
    LOZA_CUDA_CHECK(cudaGraphExecDestroy(executable));
    LOZA_CUDA_CHECK(cudaGraphDestroy(graph));
    std::sort(us.begin(), us.end());
    return us[us.size() / 2];
  }

 private:
  void prepare_workspace(const DecodeParams& params, const DecodePlan& plan) {
    const std::size_t needed = decode_workspace_bytes(params, plan);
    if (needed > workspace_.size()) workspace_ = DeviceArray<std::uint8_t>(needed);
    workspace_.fill_bytes(0);
  }

  void launch(const DecodeParams& params, const DecodePlan& plan, cudaStream_t stream,
              Inputs inputs) {
    const Status status =
        decode(params, plan, workspace_.data(), workspace_.size(), stream, inputs);
    if (!status.ok()) {
      std::fprintf(stderr, "%s: %s\n", bench_.name, status.message);
      std::exit(1);
    }
  }

  BenchCase bench_;
  bool hot_queries_;
  std::int64_t row_size_, visible_, pages_per_sequence_, num_pages_, page_size_;
  std::int64_t num_modules_, num_pools_;
  DeviceArray<bf16> pool_, q_, out_;
  DeviceArray<float> lse_;
  DeviceArray<std::int32_t> table_;
  DeviceArray<std::int64_t> lengths_;
  DeviceArray<std::uint8_t> workspace_;
  cudaStream_t stream_;
};

void report(const BenchCase& bench, Bench& run, const DecodePlan& plan) {
  const double error = run.check(plan);
  const double us = run.time(plan, Inputs::kFromPreviousKernel);
  const double stable_us = run.time(plan, Inputs::kStablePrefix);
  const double floor = static_cast<double>(run.bytes()) / kReadBytesPerUs;
  std::printf(
      "| %-25s | %2d x %-2d | %7.2f | %7.2f | %7.2f | %4.0f | %3.0f | %4.1f %% | %.2f%s |\n",
      bench.name, plan.cluster_size, plan.num_clusters, floor, us, stable_us,
      static_cast<double>(run.bytes()) / us / 1e3, run.flops() / us / 1e6, 100 * floor / us, error,
      error <= 1 ? "" : " WRONG");
  std::fflush(stdout);
}

std::vector<DecodePlan> plans_to_try(const BenchCase& bench, const DecodeParams& params) {
  std::vector<DecodePlan> plans;
  const std::int64_t tiles = std::max<std::int64_t>(
      1, (bench.heads / bench.key_heads * bench.q_len + 31) / 32 * bench.key_heads);
  for (int size : {1, 2, 3, 4, 6, 7, 8, 12, 16}) {
    for (int clusters : {1, 2, 4, 7, 14, 18, 28, 42, 64}) {
      const std::int64_t blocks = bench.batch * tiles * size * clusters;
      const bool streaming = !bench.pattern.is_full();
      if (blocks > 264 && size * clusters > 1) continue;
      if (streaming && size * clusters > 16) continue;
      if (blocks < 32 && !(bench.batch == 1 && streaming)) continue;
      if (merges_cluster(params, size)) plans.push_back({size, clusters});
    }
  }
  return plans;
}

int main(int argc, char** argv) {
  bool sweep = false, hot_queries = false;
  std::string only;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--sweep") == 0) sweep = true;
    if (std::strcmp(argv[i], "--hot-queries") == 0) hot_queries = true;
    if (std::strncmp(argv[i], "--only=", 7) == 0) only = argv[i] + 7;
  }
  cudaDeviceProp device;
  LOZA_CUDA_CHECK(cudaGetDeviceProperties(&device, 0));
  std::printf("%s, %d SMs; floor: bytes at %.2f TB/s\n", device.name, device.multiProcessorCount,
              kReadBytesPerUs / 1e6);
  std::printf(
      "| case | plan | floor us | us | stable prefix us | GB/s | TF | of floor | error / bound "
      "|\n");
  for (const BenchCase& bench : kCases) {
    if (std::string(bench.name).find(only) == std::string::npos) continue;
    Bench run(bench, hot_queries);
    const DecodePlan best = plan_decode(run.params(0), bench.length);
    report(bench, run, best);
    if (!sweep) continue;
    for (const DecodePlan& plan : plans_to_try(bench, run.params(0))) report(bench, run, plan);
  }
  return 0;
}

}  // namespace
}  // namespace loza::attention::cuda

int main(int argc, char** argv) { return loza::attention::cuda::main(argc, argv); }
