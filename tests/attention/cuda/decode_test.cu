#include <gtest/gtest.h>

#include "tests/attention/cuda/decode_case.cuh"

// Paged decode against its definition in fp64. Cases are random but repeatable; LOZA_CASES
// sets how many each random test draws.
namespace loza::attention::cuda {
namespace {

int num_cases(int standard) {
  const char* text = std::getenv("LOZA_CASES");
  return text == nullptr ? standard : std::atoi(text);
}

DecodeCase::Result run(DecodeCase& problem, const DecodePlan& plan, Workspace& workspace) {
  problem.poison_outputs();
  const Status status = decode(problem.params(), plan, workspace.data(), workspace.size(), nullptr);
  EXPECT_TRUE(status.ok()) << status.message;
  LOZA_CUDA_CHECK(cudaDeviceSynchronize());
  return problem.read_outputs();
}

DecodeCase::Result run(DecodeCase& problem, const DecodePlan& plan) {
  Workspace workspace(problem.params(), plan);
  return run(problem, plan, workspace);
}

// One problem under one plan: right, and the same bits a second time in the used workspace.
void check_case(const DecodeShape& shape, DecodePlan plan, std::int64_t most_rows = 48) {
  DecodeCase problem(shape);
  while (!merges_cluster(problem.params(), plan.cluster_size)) --plan.cluster_size;
  SCOPED_TRACE(shape.name() + " plan " + std::to_string(plan.cluster_size) + "x" +
               std::to_string(plan.num_clusters));
  Workspace workspace(problem.params(), plan);
  const auto result = run(problem, plan, workspace);
  EXPECT_EQ(problem.compare(result, most_rows), "");
  EXPECT_TRUE(run(problem, plan, workspace) == result) << "a second run gave other bits";
}

template <typename T>
const T& pick(std::mt19937_64& random, const std::vector<T>& values) {
  return values[random() % values.size()];
}

const std::vector<BlockPattern> kPatterns = {{128, 1, 7}, {128, 1, 1}, {128, 0, 4},
                                             {128, 2, 2}, {64, 1, 3},  BlockPattern::full()};
const std::vector<std::int64_t> kLengths = {
    0,   1,   2,   5,    63,   64,   65,   127,  128,  129,  130,  255,  256,  257,  511,  895, 896,
    897, 898, 903, 1022, 1023, 1024, 1025, 1026, 1030, 1151, 1152, 1153, 2047, 2048, 2049, 4099};
const std::vector<DecodePlan> kPlans = {{1, 1},  {2, 1}, {3, 1}, {4, 1}, {7, 1}, {8, 1}, {11, 1},
                                        {16, 1}, {1, 2}, {1, 7}, {2, 3}, {3, 3}, {4, 4}, {8, 2}};

// Draws the parts that all sizes share.
DecodeShape draw(std::mt19937_64& random) {
  DecodeShape shape;
  shape.dtype = random() % 4 == 0 ? DType::kF16 : DType::kBF16;
  shape.q_len = pick<std::int64_t>(random, {1, 1, 1, 2, 3, 4, 5, 8});
  shape.pattern = pick(random, kPatterns);
  shape.ring = random() % 3 == 0 && !shape.pattern.is_full();
  shape.strided = random() % 3 == 0;
  shape.sink_queries = random() % 4 == 0;
  shape.scores = pick<Scores>(
      random, {Scores::kRandom, Scores::kRandom, Scores::kEqual, Scores::kLarge, Scores::kGrowing});
  shape.seed = random();
  const int batch = 1 + static_cast<int>(random() % 5);
  for (int b = 0; b < batch; ++b) shape.lengths.push_back(pick(random, kLengths));
  return shape;
}

TEST(CudaDecode, LatentRandom) {
  std::mt19937_64 random(1);
  const int cases = num_cases(600);
  for (int i = 0; i < cases && !HasFailure(); ++i) {
    DecodeShape shape = draw(random);
    shape.heads = pick<std::int64_t>(random, {1, 5, 8, 8, 12, 16, 16, 20, 24, 32, 40, 64, 64, 128});
    check_case(shape, pick(random, kPlans));
  }
  RecordProperty("cases", cases);
}

TEST(CudaDecode, GroupedRandom) {
  std::mt19937_64 random(2);
  const int cases = num_cases(300);
  for (int i = 0; i < cases && !HasFailure(); ++i) {
    DecodeShape shape = draw(random);
    shape.qk_size = shape.v_size = pick<std::int64_t>(random, {64, 128});
    shape.key_heads = pick<std::int64_t>(random, {1, 2, 3, 8});
    shape.heads = shape.key_heads * pick<std::int64_t>(random, {1, 2, 3, 4, 8, 16});
    check_case(shape, pick(random, kPlans));
  }
  RecordProperty("cases", cases);
}

// More rows than the swap kernel takes.
TEST(CudaDecode, ManyRows) {
  for (const auto dtype : {DType::kBF16, DType::kF16}) {
    for (const auto& plan : {DecodePlan{1, 1}, DecodePlan{2, 1}, DecodePlan{3, 1}, DecodePlan{4, 1},
                             DecodePlan{5, 1}, DecodePlan{8, 1}, DecodePlan{1, 4}, DecodePlan{2, 3},
                             DecodePlan{3, 2}, DecodePlan{8, 2}}) {
      for (const std::int64_t heads : {64, 40, 128}) {
        for (const std::int64_t length : {1, 64, 65, 129, 1024, 1025, 3000}) {
          DecodeShape shape;
          shape.dtype = dtype;
          shape.heads = heads;
          shape.lengths = {length};
          check_case(shape, plan);
          shape.pattern = BlockPattern::full();
          shape.q_len = 2;
          check_case(shape, plan);
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST(CudaDecode, EveryHostileLengthAlone) {
  for (const auto length : kLengths) {
    for (const auto& pattern : {BlockPattern{}, BlockPattern::full()}) {
      DecodeShape shape;
      shape.pattern = pattern;
      shape.lengths = {length};
      check_case(shape, {4, 1});
      shape.heads = 16;
      shape.q_len = 2;
      check_case(shape, {4, 3});
      if (HasFailure()) return;
    }
  }
}

// Rows of one sequence that see the sink apart, and rows that do not yet.
TEST(CudaDecode, SinkQueries) {
  for (const auto& pattern : {BlockPattern{}, BlockPattern{128, 2, 2}, BlockPattern{64, 1, 3}}) {
    const std::int64_t whole = pattern.exact_len();
    for (const auto& plan :
         {DecodePlan{1, 1}, DecodePlan{2, 1}, DecodePlan{8, 1}, DecodePlan{3, 2}}) {
      DecodeShape shape;
      shape.pattern = pattern;
      shape.q_len = 4;
      shape.sink_queries = true;
      shape.lengths = {whole, whole + 1, whole + 2, whole + 4, whole + 128, 3000, 3, 130};
      check_case(shape, plan, 96);
    }
  }
}

TEST(CudaDecode, LongContext) {
  DecodeShape shape;
  shape.heads = 16;
  shape.pattern = BlockPattern::full();
  shape.lengths = {65537, 131072, 40000};
  check_case(shape, {4, 8}, 6);
  check_case(shape, {1, 44}, 6);
  shape.pattern = {};
  shape.lengths = {1048575, 262145};
  shape.ring = true;
  check_case(shape, {16, 1}, 6);
}

TEST(CudaDecode, ManySequences) {
  DecodeShape shape;
  for (int b = 0; b < 700; ++b) shape.lengths.push_back(1 + b * 37 % 1500);
  check_case(shape, {1, 1}, 64);
  check_case(shape, {2, 1}, 64);
}

// The same kernel and plan: every length that the pattern sees whole, bit for bit.
TEST(CudaDecode, StreamingIsFullUpToExactLength) {
  for (const auto& [plan, heads] : {std::pair{DecodePlan{4, 1}, 8},
                                    {DecodePlan{8, 1}, 8},
                                    {DecodePlan{2, 2}, 8},
                                    {DecodePlan{2, 1}, 64},
                                    {DecodePlan{1, 1}, 128}}) {
    for (std::int64_t begin = 1; begin <= 1024; begin += 64) {
      DecodeShape shape;
      shape.heads = heads;
      for (std::int64_t i = 0; i < 64; ++i) shape.lengths.push_back(begin + i);
      DecodeCase streaming(shape);
      const auto result = run(streaming, plan);
      streaming.params().pattern = BlockPattern::full();
      ASSERT_TRUE(run(streaming, plan) == result) << "lengths from " << begin;
    }
  }
}

TEST(CudaDecode, ThousandRunsSameBits) {
  DecodeShape shape;
  shape.heads = 16;
  shape.pattern = BlockPattern::full();
  shape.lengths = {5000, 3000, 129, 1};
  for (const auto& [plan, heads] : {std::pair{DecodePlan{4, 7}, 16},
                                    {DecodePlan{8, 1}, 16},
                                    {DecodePlan{2, 3}, 128},
                                    {DecodePlan{2, 1}, 128}}) {
    shape.heads = heads;
    DecodeCase problem(shape);
    Workspace workspace(problem.params(), plan);
    const auto result = run(problem, plan, workspace);
    EXPECT_EQ(problem.compare(result, 24), "");
    for (int i = 0; i < 500; ++i) ASSERT_TRUE(run(problem, plan, workspace) == result) << i;
  }
}

// Launches back to back share a workspace and overlap their starts.
TEST(CudaDecode, ChainsInOneWorkspace) {
  DecodeShape shape;
  shape.pattern = BlockPattern::full();
  shape.lengths = {4000, 2500};
  const DecodePlan plan = {4, 8};
  DecodeCase problem(shape);
  Workspace workspace(problem.params(), plan);
  const auto result = run(problem, plan, workspace);
  problem.poison_outputs();
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(decode(problem.params(), plan, workspace.data(), workspace.size(), nullptr).ok());
  }
  LOZA_CUDA_CHECK(cudaDeviceSynchronize());
  EXPECT_TRUE(problem.read_outputs() == result);
}

// Early reads change nothing where the promise holds.
TEST(CudaDecode, StablePrefixSameBits) {
  for (const auto& plan : {DecodePlan{8, 1}, DecodePlan{3, 2}, DecodePlan{1, 1}}) {
    DecodeShape shape;
    shape.q_len = 3;
    shape.lengths = {2000, 1025, 66, 1, 0};
    shape.ring = plan.cluster_size == 8;
    DecodeCase problem(shape);
    Workspace workspace(problem.params(), plan);
    const auto result = run(problem, plan, workspace);
    for (int i = 0; i < 20; ++i) {
      problem.poison_outputs();
      ASSERT_TRUE(decode(problem.params(), plan, workspace.data(), workspace.size(), nullptr,
                         Inputs::kStablePrefix)
                      .ok());
      LOZA_CUDA_CHECK(cudaDeviceSynchronize());
      ASSERT_TRUE(problem.read_outputs() == result);
    }
  }
}

// A captured launch reads the lengths of the moment it is replayed.
TEST(CudaDecode, GraphFollowsLengths) {
  DecodeShape shape;
  shape.lengths = {1500, 700, 64};
  const DecodePlan plan = {4, 2};
  DecodeCase problem(shape);
  Workspace workspace(problem.params(), plan);
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  LOZA_CUDA_CHECK(cudaStreamCreate(&stream));
  LOZA_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  ASSERT_TRUE(decode(problem.params(), plan, workspace.data(), workspace.size(), stream).ok());
  LOZA_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  LOZA_CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  for (const auto& lengths :
       {std::vector<std::int64_t>{1500, 700, 64}, {1480, 699, 1}, {1409, 1, 0}}) {
    problem.lengths().put(lengths);
    problem.poison_outputs();
    LOZA_CUDA_CHECK(cudaGraphLaunch(executable, stream));
    LOZA_CUDA_CHECK(cudaStreamSynchronize(stream));
    EXPECT_EQ(problem.compare(problem.read_outputs(), 64), "");
  }
  LOZA_CUDA_CHECK(cudaGraphExecDestroy(executable));
  LOZA_CUDA_CHECK(cudaGraphDestroy(graph));
  LOZA_CUDA_CHECK(cudaStreamDestroy(stream));
}

TEST(CudaDecode, DefaultPlansAreRight) {
  for (const std::int64_t heads : {8, 16, 64, 128}) {
    for (const int batch : {1, 3, 32, 140}) {
      for (const auto& pattern : {BlockPattern{}, BlockPattern::full()}) {
        DecodeShape shape;
        shape.heads = heads;
        shape.pattern = pattern;
        for (int b = 0; b < batch; ++b) shape.lengths.push_back(1100 + b);
        DecodeCase problem(shape);
        const DecodePlan plan = plan_decode(problem.params(), 4096);
        check_case(shape, plan, 32);
      }
    }
  }
}

TEST(CudaDecode, RefusalsNameWhatIsMissing) {
  DecodeShape shape;
  shape.lengths = {100};
  const DecodeCase problem(shape);
  const auto refusal = [&](auto change) {
    DecodeParams params = problem.params();
    change(params);
    return check(params);
  };
  EXPECT_TRUE(check(problem.params()).ok());
  EXPECT_EQ(refusal([](auto& p) { p.q_len = 9; }).code, StatusCode::kUnsupported);
  EXPECT_EQ(refusal([](auto& p) { p.kv.dtype = DType::kF32; }).code, StatusCode::kUnsupported);
  EXPECT_EQ(refusal([](auto& p) { p.qk_size = 192; }).code, StatusCode::kUnsupported);
  EXPECT_EQ(refusal([](auto& p) { p.kv.page_len = 16; }).code, StatusCode::kUnsupported);
  EXPECT_EQ(refusal([](auto& p) { p.pattern.block_size = 96; }).code, StatusCode::kUnsupported);
  EXPECT_EQ(refusal([](auto& p) { p.kv.row_stride = 577; }).code, StatusCode::kUnsupported);
  EXPECT_EQ(refusal([](auto& p) { p.num_key_heads = 3; }).code, StatusCode::kBadArgument);
  EXPECT_EQ(refusal([](auto& p) { p.q.data = nullptr; }).code, StatusCode::kBadArgument);
  const Status status = refusal([](auto& p) { p.kv.page_len = 16; });
  EXPECT_NE(std::string(status.message).find("page_len"), std::string::npos) << status.message;
  EXPECT_EQ(decode(problem.params(), {4, 2}, nullptr, 0, nullptr).code,
            StatusCode::kWorkspaceTooSmall);
  EXPECT_EQ(decode(problem.params(), {17, 1}, nullptr, 0, nullptr).code, StatusCode::kBadArgument);
}

// Needs no GPU.
TEST(CudaDecode, ClustersThatCannotBeMergedAreRefused) {
  alignas(16) static std::uint8_t memory[16];
  static const std::int32_t table[1] = {0};
  static const std::int64_t lengths[1] = {1};
  DecodeParams params;
  params.num_sequences = params.q_len = params.num_key_heads = 1;
  params.qk_size = 576;
  params.v_size = 512;
  params.q = {memory, 128 * 576, 576};
  params.out = {memory, 128 * 512, 512};
  params.kv.pages = memory;
  params.kv.dtype = DType::kBF16;
  params.kv.page_len = 64;
  params.kv.row_stride = params.kv.k_head_stride = 576;
  params.kv.page_stride = 64 * 576;
  params.kv.page_table = table;
  params.kv.table_stride = 1;
  params.kv.lengths = lengths;
  for (const std::int64_t heads : {8, 32, 33, 64, 128}) {
    params.num_heads = heads;
    ASSERT_TRUE(check(params).ok()) << check(params).message;
    for (int size = -1; size <= 33; ++size) {
      const bool is_merged = size >= 1 && (heads <= 32 ? size <= 16 : size <= 5 || size == 8);
      EXPECT_EQ(merges_cluster(params, size), is_merged) << heads << " heads, " << size;
      if (is_merged) continue;
      const Status status = decode(params, {size, 1}, nullptr, 0, nullptr);
      EXPECT_EQ(status.code, StatusCode::kBadArgument);
      EXPECT_NE(std::string(status.message).find("plan_decode"), std::string::npos);
    }
  }
}

TEST(CudaDecode, NoSequences) {
  DecodeShape shape;
  DecodeCase problem(shape);
  EXPECT_TRUE(decode(problem.params(), {1, 1}, nullptr, 0, nullptr).ok());
}

}  // namespace
}  // namespace loza::attention::cuda
