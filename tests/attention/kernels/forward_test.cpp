#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "loza/attention/cpu/cpu.h"
#include "loza/attention/cpu/instruction_set.h"
#include "loza/attention/reference/reference.h"
#include "tests/attention/kernels/forward_case.h"
#include "tests/attention/kernels/instruction_sets.h"
#include "tests/attention/kernels/low_precision.h"
#include "tests/support/case_count.h"
#include "tests/support/compare.h"

namespace loza::testing {
namespace {

using Layout = Operand::Layout;

// Blocks of 16 with everything: lengths scaled down by 8 from those of blocks of 128.
std::vector<Shape> small_block_shapes() {
  const std::vector<Heads> heads{
      {1, 1, 64, 64},  {8, 2, 64, 64}, {2, 2, 128, 128}, {9, 3, 64, 64}, {2, 2, 192, 128},
      {16, 1, 32, 16}, {6, 3, 33, 17}, {2, 1, 576, 512}, {3, 1, 1, 1},   {16, 16, 24, 40}};
  std::vector<Shape> shapes;
  std::size_t next = 0;
  for (const std::int64_t len :
       {1, 2, 15, 16, 17, 31, 32, 33, 111, 112, 113, 127, 128, 129, 143, 144, 145, 255, 256, 257}) {
    for (const BlockPattern& pattern : patterns_of(16)) {
      for (const DType dtype : {DType::kBF16, DType::kF32}) {
        const Layout layout = next % 3 == 0 ? Layout::kGaps : Layout::kPacked;
        shapes.push_back(with_heads({dtype, pattern, {{len, len}}, 1, 1, 64, 64, layout},
                                    heads[next++ % heads.size()]));
      }
      if (pattern.is_full()) ++next;
    }
  }
  return shapes;
}

std::vector<Shape> other_block_shapes() {
  std::vector<Shape> shapes;
  std::size_t next = 0;
  for (const std::int64_t block : {1, 5, 8, 24, 32, 48, 64, 136, 192}) {
    for (const BlockPattern& pattern : patterns_of(block)) {
      for (const std::int64_t len : {std::int64_t{130}, 9 * block + 3}) {
        if (len > 700) continue;
        const DType dtype = next++ % 2 == 0 ? DType::kBF16 : DType::kF32;
        shapes.push_back({dtype, pattern, {{len, len}}, 2, 1, 64, 64, Layout::kPacked});
      }
    }
  }
  return shapes;
}

std::vector<Shape> true_block_shapes() {
  std::vector<Shape> shapes;
  std::size_t next = 0;
  for (const std::int64_t len : {1,   2,    127,  128,  129,  255,  256,  257,  895,  896,
                                 897, 1023, 1024, 1025, 1151, 1152, 1153, 2047, 2048, 2049}) {
    for (const BlockPattern& pattern : patterns_of(128)) {
      const DType dtype = next++ % 2 == 0 ? DType::kBF16 : DType::kF32;
      if (len > 2000 && pattern.sink_blocks != 1) continue;
      shapes.push_back({dtype, pattern, {{len, len}}, 1, 1, 64, 64, Layout::kPacked});
    }
  }
  return shapes;
}

// The last chunk of a long prompt, and a streaming one whole.
std::vector<Shape> long_shapes() {
  std::vector<Shape> shapes;
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const BlockPattern& pattern : patterns_of(128)) {
      shapes.push_back(
          {dtype, pattern, {{33, 65'537}, {17, 4'096}}, 2, 1, 64, 64, Layout::kPacked});
    }
    shapes.push_back({dtype, BlockPattern{}, {{4'096, 4'096}}, 1, 1, 24, 16, Layout::kPacked});
    // So long beside the window that each thread packs the keys of its own queries.
    for (const BlockPattern& pattern : {BlockPattern{16, 1, 7}, BlockPattern{5, 2, 3}}) {
      shapes.push_back(
          {dtype, pattern, {{4'097, 4'097}, {2'050, 3'001}}, 4, 2, 40, 24, Layout::kPacked});
    }
  }
  return shapes;
}

// Mixed batches: chunks of a prompt, sequences without queries, keys, or both, and queries that
// have no position.
std::vector<Shape> batch_shapes() {
  const std::vector<std::vector<Lengths>> batches{{{0, 0}},
                                                  {{0, 40}, {3, 3}, {0, 0}, {17, 90}},
                                                  {{5, 0}, {40, 37}, {1, 200}},
                                                  {{16, 144}, {15, 145}, {33, 300}, {128, 128}},
                                                  {{200, 200}, {1, 1}, {64, 640}, {2, 257}}};
  std::vector<Shape> shapes;
  for (const auto& batch : batches) {
    for (const BlockPattern& pattern : patterns_of(16)) {
      for (const DType dtype : {DType::kBF16, DType::kF32}) {
        shapes.push_back({dtype, pattern, batch, 6, 2, 32, 24, Layout::kGaps});
        shapes.push_back({dtype, pattern, batch, 3, 3, 64, 64, Layout::kPacked});
      }
    }
  }
  return shapes;
}

class ForwardAgrees : public ::testing::TestWithParam<Shape> {};

TEST_P(ForwardAgrees, WithTheReference) {
  ForwardCase c(GetParam(), 1);
  ForwardCase exact = c.in_fp64();
  reference::attend(exact.params());
  const std::vector<double> out = exact.out.values(), lse = exact.lse_values();
  LowPrecision low(c.params());
  low.forward();
  const bool is_bf16 = c.shape.dtype == DType::kBF16;
  for_each_instruction_set([&] {
    c.poison_outputs();
    cpu::attend(c.params());
    EXPECT_TRUE(is_close(c.out.values(), out, low.out, {1e-6, 2, is_bf16 ? 5e-6 : 1e-10}));
    EXPECT_TRUE(is_close(c.lse_values(), lse, lse, {2e-5}));
    EXPECT_TRUE(c.out.gaps_are_untouched());
    ++case_count();
  });
}

INSTANTIATE_TEST_SUITE_P(SmallBlocks, ForwardAgrees, ::testing::ValuesIn(small_block_shapes()),
                         shape_name);
INSTANTIATE_TEST_SUITE_P(OtherBlocks, ForwardAgrees, ::testing::ValuesIn(other_block_shapes()),
                         shape_name);
INSTANTIATE_TEST_SUITE_P(TrueBlocks, ForwardAgrees, ::testing::ValuesIn(true_block_shapes()),
                         shape_name);
INSTANTIATE_TEST_SUITE_P(Long, ForwardAgrees, ::testing::ValuesIn(long_shapes()), shape_name);
INSTANTIATE_TEST_SUITE_P(Batches, ForwardAgrees, ::testing::ValuesIn(batch_shapes()), shape_name);

}  // namespace
}  // namespace loza::testing
