#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "loza/attention/cpu/cpu.h"
#include "loza/attention/reference/reference.h"
#include "tests/attention/kernels/forward_case.h"
#include "tests/attention/kernels/instruction_sets.h"
#include "tests/attention/kernels/low_precision.h"
#include "tests/attention/kernels/paged_case.h"
#include "tests/support/case_count.h"
#include "tests/support/compare.h"

namespace loza::testing {
namespace {

using Layout = Operand::Layout;

std::vector<PagedShape> paged_shapes() {
  struct Row {
    Heads heads;
    RowLayout layout;
  };
  const std::vector<Row> rows{
      {{1, 1, 64, 64}, RowLayout::kHeads},   {{9, 3, 64, 64}, RowLayout::kHeads},
      {{8, 8, 32, 32}, RowLayout::kHeads},   {{16, 1, 48, 32}, RowLayout::kLatent},
      {{4, 2, 128, 128}, RowLayout::kHeads}, {{2, 2, 33, 17}, RowLayout::kHeads},
      {{64, 1, 40, 24}, RowLayout::kLatent}, {{5, 1, 64, 96}, RowLayout::kHeads},
      {{14, 2, 96, 32}, RowLayout::kHeads},  {{6, 1, 96, 64}, RowLayout::kLatent},
      {{12, 4, 192, 128}, RowLayout::kHeads}};
  std::vector<PagedShape> shapes;
  std::size_t next = 0;
  for (std::int64_t q_len = 1; q_len <= 8; ++q_len) {
    for (const BlockPattern& pattern : patterns_of(16)) {
      for (const Storage storage : {Storage::kPages, Storage::kRing}) {
        if (storage == Storage::kRing && pattern.is_full()) continue;
        for (const DType dtype : {DType::kBF16, DType::kF32}) {
          const Row& row = rows[next % rows.size()];
          PagedShape shape;
          shape.dtype = dtype;
          shape.pattern = pattern;
          shape.q_len = q_len;
          shape.heads = row.heads.heads;
          shape.key_heads = row.heads.key_heads;
          shape.qk_size = row.heads.qk_size;
          shape.v_size = row.heads.v_size;
          shape.row_layout = row.layout;
          shape.storage = storage;
          shape.page_len = next % 3 == 0 ? 16 : next % 3 == 1 ? 8 : 4;
          shape.layout = next % 2 == 0 ? Layout::kGaps : Layout::kPacked;
          shape.lengths = {128 + static_cast<std::int64_t>(next % 20), 0, 1, 33, 17, 2, 113,
                           600 + static_cast<std::int64_t>(next)};
          shapes.push_back(shape);
          ++next;
        }
      }
    }
  }
  // Small and odd blocks, whose windows move while the new tokens are few.
  for (const std::int64_t block : {1, 2, 4, 6, 32, 48}) {
    for (const BlockPattern& pattern : patterns_of(block)) {
      PagedShape shape;
      shape.dtype = next++ % 2 == 0 ? DType::kBF16 : DType::kF32;
      shape.pattern = pattern;
      shape.q_len = 1 + static_cast<std::int64_t>(next % 8);
      shape.lengths = {8 * block, 8 * block + 3, 9 * block - 1, 9 * block + 1, 140, 1};
      shape.heads = 2;
      shape.page_len = block % 2 == 0 ? block / 2 : block;
      shape.storage = pattern.is_full() || next % 2 == 0 ? Storage::kPages : Storage::kRing;
      shapes.push_back(shape);
    }
  }
  // Blocks of 128.
  for (const std::int64_t length :
       {1,    2,    127,  128,  129,  255,  256,  257,  895,  896,  897,
        1023, 1024, 1025, 1151, 1152, 1153, 2047, 2048, 2049, 4096, 65'537}) {
    for (const BlockPattern& pattern : {BlockPattern{}, BlockPattern::full()}) {
      PagedShape shape;
      shape.dtype = next++ % 2 == 0 ? DType::kBF16 : DType::kF32;
      shape.pattern = pattern;
      shape.q_len = 1 + static_cast<std::int64_t>(next % 4);
      shape.lengths = {length};
      shape.page_len = 64;
      shape.heads = length > 4096 ? 1 : 3;
      if (length > 2048 && length <= 4096) {
        shape.heads = 16;
        shape.qk_size = 576;
        shape.v_size = 512;
        shape.row_layout = RowLayout::kLatent;
      }
      shapes.push_back(shape);
    }
  }
  return shapes;
}

class DecodeAgrees : public ::testing::TestWithParam<PagedShape> {};

TEST_P(DecodeAgrees, WithTheReference) {
  PagedCase c(GetParam(), 5);
  ForwardCase exact = contiguous(c, DType::kF64);
  reference::attend(exact.params());
  const std::vector<double> out = exact.out.values(), lse = exact.lse_values();
  ForwardCase plain = contiguous(c, c.shape.dtype);
  LowPrecision low(plain.params());
  low.forward();
  const bool is_bf16 = c.shape.dtype == DType::kBF16;
  for_each_instruction_set([&] {
    c.poison_outputs();
    cpu::attend_paged(c.params());
    EXPECT_TRUE(is_close(c.out.values(), out, low.out, {1e-6, 2, is_bf16 ? 5e-6 : 1e-10}));
    EXPECT_TRUE(is_close(c.lse_values(), lse, lse, {2e-5}));
    EXPECT_TRUE(c.out.gaps_are_untouched());
    ++case_count();
  });
}

// The paged and the contiguous reference are two statements of one thing.
TEST_P(DecodeAgrees, TheTwoReferences) {
  PagedCase c(GetParam(), 5);
  reference::attend_paged(c.params());
  ForwardCase plain = contiguous(c, c.shape.dtype);
  reference::attend(plain.params());
  EXPECT_EQ(plain.out.bits(), c.out.bits());
  EXPECT_TRUE(is_close(c.lse_values(), plain.lse_values(), plain.lse_values(), {0}));
  ++case_count();
}

INSTANTIATE_TEST_SUITE_P(Shapes, DecodeAgrees, ::testing::ValuesIn(paged_shapes()), shape_name);

}  // namespace
}  // namespace loza::testing
