#include <gtest/gtest.h>

#include "loza/attention/reference/reference.h"
#include "tests/attention/cuda/prefill_case.cuh"

// Prefill against its definition in fp64. Cases are random but repeatable; LOZA_CASES sets how
// many each random test draws.
namespace loza::attention::cuda {
namespace {

int num_prefill_cases(int standard) {
  const char* text = std::getenv("LOZA_CASES");
  return text == nullptr ? standard : std::atoi(text);
}

void launch(PrefillCase& problem) {
  problem.poison_outputs();
  const Status status = prefill(problem.params(), problem.tail(), nullptr);
  ASSERT_TRUE(status.ok()) << status.message;
  LOZA_CUDA_CHECK(cudaDeviceSynchronize());
}

PrefillCase::Result run(PrefillCase& problem) {
  launch(problem);
  return problem.read_outputs();
}

PrefillCase::Bits run_again(PrefillCase& problem) {
  launch(problem);
  return problem.read_bits();
}

// Right, and the same bits a second time.
void check_case(const PrefillProblem& of, std::int64_t most_rows = 64) {
  SCOPED_TRACE(of.name());
  PrefillCase problem(of);
  const auto result = run(problem);
  ASSERT_EQ(problem.compare(result, most_rows), "");
  const auto bits = problem.read_bits();
  ASSERT_TRUE(run_again(problem) == bits) << "a second run gave other bits";
}

template <typename T>
const T& pick(std::mt19937_64& random, const std::vector<T>& values) {
  return values[random() % values.size()];
}

const std::vector<BlockPattern> kPatterns = {{128, 1, 7}, {128, 1, 1}, {128, 0, 4},
                                             {128, 2, 2}, {256, 1, 2}, BlockPattern::full()};
const std::vector<std::int64_t> kLengths = {1,    2,    63,   64,   65,   127,  128,  129,
                                            130,  255,  256,  257,  511,  895,  896,  897,
                                            1023, 1024, 1025, 1151, 1152, 1153, 2047, 2500};

PrefillProblem draw(std::mt19937_64& random) {
  PrefillProblem problem;
  problem.dtype = random() % 4 == 0 ? DType::kF16 : DType::kBF16;
  const auto [qk, v] = pick<std::pair<std::int64_t, std::int64_t>>(
      random, {{192, 128}, {192, 128}, {128, 128}, {64, 64}});
  problem.qk_size = qk;
  problem.v_size = v;
  problem.key_heads = pick<std::int64_t>(random, {1, 2, 3});
  problem.heads = problem.key_heads * pick<std::int64_t>(random, {1, 1, 2, 3});
  problem.pattern = pick(random, kPatterns);
  problem.shared_tail = qk == 192 && random() % 2 == 0;
  problem.sink_queries = random() % 3 == 0;
  problem.leave_out = random() % 3 == 0;
  problem.strided = random() % 3 == 0;
  problem.scores = pick<Scores>(
      random, {Scores::kRandom, Scores::kRandom, Scores::kEqual, Scores::kLarge, Scores::kGrowing});
  problem.seed = random();
  const int sequences = 1 + static_cast<int>(random() % 4);
  for (int b = 0; b < sequences; ++b) {
    const std::int64_t k_len = pick(random, kLengths);
    const std::int64_t q_len = random() % 2 == 0 ? k_len : 1 + random() % k_len;
    problem.chunks.push_back({q_len, k_len});
  }
  return problem;
}

// The definition on the GPU, which judges the rest, against the CPU's.
TEST(CudaPrefill, ReferenceIsTheReference) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 12; ++i) {
    PrefillProblem of = draw(random);
    of.shared_tail = false;  // the CPU's keys are whole
    of.scores = Scores::kRandom;
    for (Chunk& chunk : of.chunks) {
      chunk.k_len = std::min<std::int64_t>(chunk.k_len, 400);
      chunk.q_len = std::min<std::int64_t>(chunk.q_len, std::min<std::int64_t>(chunk.k_len, 30));
    }
    of.pattern = {128, 1, 1};
    SCOPED_TRACE(of.name());
    const PrefillCase problem(of);
    auto host = problem.on_host();
    host.params.q.data = host.q.data();
    host.params.sink_q.data = of.sink_queries ? host.sink_q.data() : nullptr;
    host.params.k.data = host.k.data();
    host.params.v.data = host.v.data();
    host.params.out.data = host.out.data();
    host.params.lse = host.lse.data();
    reference::attend(host.params);
    std::vector<ReferenceRow> rows;
    for (std::size_t b = 0; b < of.chunks.size(); ++b) {
      for (std::int64_t row = host.params.q_offsets[b]; row < host.params.q_offsets[b + 1]; ++row) {
        rows.push_back(problem.row_at(b, row, row % of.heads));
      }
    }
    const auto truth = problem.compute(rows);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      ASSERT_NEAR(host.lse[rows[r].row * of.heads + rows[r].head], truth.lse[r], 1e-5);
      for (std::int64_t d = 0; d < of.v_size; ++d) {
        const std::uint16_t bits = host.out[rows[r].row * host.params.out.token_stride +
                                            rows[r].head * host.params.out.head_stride + d];
        const double want = truth.out[r * of.v_size + d];
        ASSERT_NEAR(element_value(of.dtype, bits), want, 1e-6 + std::fabs(want) / 250);
      }
    }
  }
}

TEST(CudaPrefill, OneTile) {
  PrefillProblem of;
  of.heads = of.key_heads = 1;
  of.chunks = {{128, 128}};
  check_case(of, 128);
}

TEST(CudaPrefill, FewTiles) {
  PrefillProblem of;
  of.chunks = {{300, 300}};
  check_case(of, 300);
  of.pattern = BlockPattern::full();
  check_case(of, 300);
}

TEST(CudaPrefill, EverySize) {
  for (const auto dtype : {DType::kBF16, DType::kF16}) {
    for (const auto& [qk, v] : {std::pair{192, 128}, {128, 128}, {64, 64}}) {
      PrefillProblem of;
      of.dtype = dtype;
      of.qk_size = qk;
      of.v_size = v;
      of.chunks = {{1500, 1500}, {1, 1}, {130, 1200}};
      check_case(of, 200);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(CudaPrefill, HostileLengths) {
  for (const auto length : kLengths) {
    for (const auto& pattern : {BlockPattern{}, BlockPattern::full(), BlockPattern{128, 1, 1}}) {
      PrefillProblem of;
      of.pattern = pattern;
      of.chunks = {{length, length}};
      check_case(of, 48);
      of.chunks = {{std::min<std::int64_t>(length, 70), length}};
      check_case(of, 48);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(CudaPrefill, Random) {
  std::mt19937_64 random(1);
  const int cases = num_prefill_cases(300);
  for (int i = 0; i < cases && !HasFatalFailure(); ++i) check_case(draw(random), 32);
  RecordProperty("cases", cases);
}

TEST(CudaPrefill, SinkQueries) {
  for (const auto& pattern : {BlockPattern{}, BlockPattern{128, 1, 1}, BlockPattern{128, 2, 3},
                              BlockPattern{256, 1, 2}}) {
    PrefillProblem of;
    of.pattern = pattern;
    of.sink_queries = true;
    of.chunks = {{2000, 2000}, {100, 1500}, {300, 300}};
    check_case(of, 200);
  }
}

TEST(CudaPrefill, MoreQueriesThanPositions) {
  PrefillProblem of;
  of.chunks = {{300, 10}, {5, 0}, {0, 7}, {64, 64}};
  check_case(of, 400);
}

TEST(CudaPrefill, ManySequences) {
  PrefillProblem of;
  for (int b = 0; b < 300; ++b) of.chunks.push_back({1 + b * 7 % 60, 1 + b * 37 % 500 + 60});
  check_case(of, 200);
}

TEST(CudaPrefill, LongContext) {
  PrefillProblem of;
  of.heads = of.key_heads = 1;
  of.shared_tail = true;
  of.chunks = {{65537, 65537}};
  check_case(of, 24);
  of.pattern = BlockPattern::full();
  of.chunks = {{3000, 70000}};
  check_case(of, 24);
}

// Every position that the pattern sees whole, bit for bit.
TEST(CudaPrefill, StreamingIsFullUpToExactLength) {
  for (const auto& [qk, v] : {std::pair{192, 128}, {128, 128}, {64, 64}}) {
    PrefillProblem of;
    of.qk_size = qk;
    of.v_size = v;
    for (std::int64_t length = 1; length <= 1024; length += 31) {
      of.chunks.push_back({length, length});
    }
    of.chunks.push_back({1024, 1024});
    PrefillCase problem(of);
    problem.params().pattern = BlockPattern{};
    const auto streaming = run(problem);
    problem.params().pattern = BlockPattern::full();
    ASSERT_TRUE(run(problem) == streaming);
  }
}

// However a prompt is cut into calls, its rows have the same bits.
TEST(CudaPrefill, ChunkedIsWhole) {
  std::mt19937_64 random(9);
  for (const auto& pattern : {BlockPattern{}, BlockPattern::full(), BlockPattern{128, 2, 2}}) {
    for (const bool sink_queries : {false, true}) {
      PrefillProblem of;
      of.pattern = pattern;
      of.sink_queries = sink_queries;
      of.chunks = {{2300, 2300}};
      PrefillCase problem(of);
      const auto whole = run(problem);
      ASSERT_EQ(problem.compare(whole, 64), "");
      problem.poison_outputs();
      const ForwardParams all = problem.params();
      for (std::int64_t begin = 0; begin < 2300;) {
        const std::int64_t end = std::min<std::int64_t>(2300, begin + 1 + random() % 400);
        ForwardParams chunk = all;
        const std::int64_t q_offsets[] = {0, end - begin}, k_offsets[] = {0, end};
        chunk.q_offsets = q_offsets;
        chunk.k_offsets = k_offsets;
        const auto from = [begin](TensorView& view) {
          if (view.data == nullptr) return;
          view.data = static_cast<std::uint16_t*>(view.data) + begin * view.token_stride;
        };
        from(chunk.q);
        from(chunk.sink_q);
        from(chunk.out);
        chunk.lse += begin * all.num_heads;
        ASSERT_TRUE(prefill(chunk, problem.tail(), nullptr).ok());
        begin = end;
      }
      LOZA_CUDA_CHECK(cudaDeviceSynchronize());
      ASSERT_TRUE(problem.read_outputs() == whole);
    }
  }
}

// Nothing of a sequence reaches another.
TEST(CudaPrefill, NeighboursAreUntouched) {
  PrefillProblem of;
  of.chunks = {{70, 300}, {200, 200}, {33, 1100}};
  for (std::size_t broken = 0; broken < of.chunks.size(); ++broken) {
    PrefillCase problem(of);
    const auto result = run(problem);
    problem.poison_sequence(broken);
    const auto beside = run(problem);
    const std::int64_t row_size = of.heads * of.v_size;
    for (std::size_t b = 0; b < of.chunks.size(); ++b) {
      if (b == broken) continue;
      const auto* offsets = problem.params().q_offsets;
      EXPECT_TRUE(std::equal(result.out.begin() + offsets[b] * row_size,
                             result.out.begin() + offsets[b + 1] * row_size,
                             beside.out.begin() + offsets[b] * row_size))
          << "sequence " << b << " beside a broken " << broken;
    }
  }
}

TEST(CudaPrefill, ThousandRunsSameBits) {
  PrefillProblem of;
  of.heads = of.key_heads = 4;
  of.chunks = {{3000, 3000}, {100, 1300}};
  for (const auto& pattern : {BlockPattern{}, BlockPattern::full()}) {
    of.pattern = pattern;
    PrefillCase problem(of);
    EXPECT_EQ(problem.compare(run(problem), 24), "");
    const auto bits = problem.read_bits();
    for (int i = 0; i < 500; ++i) ASSERT_TRUE(run_again(problem) == bits) << i;
  }
}

TEST(CudaPrefill, CapturedInAGraph) {
  PrefillProblem of;
  of.chunks = {{700, 900}};
  PrefillCase problem(of);
  const auto result = run(problem);
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  LOZA_CUDA_CHECK(cudaStreamCreate(&stream));
  LOZA_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  ASSERT_TRUE(prefill(problem.params(), problem.tail(), stream).ok());
  LOZA_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  LOZA_CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  problem.poison_outputs();
  LOZA_CUDA_CHECK(cudaGraphLaunch(executable, stream));
  LOZA_CUDA_CHECK(cudaStreamSynchronize(stream));
  EXPECT_TRUE(problem.read_outputs() == result);
  LOZA_CUDA_CHECK(cudaGraphExecDestroy(executable));
  LOZA_CUDA_CHECK(cudaGraphDestroy(graph));
  LOZA_CUDA_CHECK(cudaStreamDestroy(stream));
}

TEST(CudaPrefill, RefusalsNameWhatIsMissing) {
  PrefillProblem of;
  of.chunks = {{10, 10}};
  const PrefillCase problem(of);
  const auto refusal = [&](auto change) {
    ForwardParams params = problem.params();
    change(params);
    return check(params);
  };
  EXPECT_TRUE(check(problem.params()).ok());
  EXPECT_EQ(refusal([](auto& p) { p.dtype = DType::kF32; }).code, StatusCode::kUnsupported);
  EXPECT_EQ(refusal([](auto& p) { p.v_size = 192; }).code, StatusCode::kUnsupported);
  EXPECT_EQ(refusal([](auto& p) { p.pattern.block_size = 64; }).code, StatusCode::kUnsupported);
  EXPECT_EQ(refusal([](auto& p) { p.scale = 0; }).code, StatusCode::kUnsupported);
  EXPECT_EQ(refusal([](auto& p) { p.q.token_stride = 577; }).code, StatusCode::kUnsupported);
  EXPECT_EQ(refusal([](auto& p) { p.num_key_heads = 3; }).code, StatusCode::kBadArgument);
  EXPECT_EQ(refusal([](auto& p) { p.v.data = nullptr; }).code, StatusCode::kBadArgument);
  const Status status = refusal([](auto& p) { p.pattern.block_size = 64; });
  EXPECT_NE(std::string(status.message).find("block_size"), std::string::npos) << status.message;
}

TEST(CudaPrefill, NothingAsked) {
  PrefillProblem of;
  PrefillCase problem(of);
  EXPECT_TRUE(prefill(problem.params(), {}, nullptr).ok());
  of.chunks = {{0, 5}, {0, 0}};
  PrefillCase no_queries(of);
  EXPECT_TRUE(prefill(no_queries.params(), {}, nullptr).ok());
}

}  // namespace
}  // namespace loza::attention::cuda
