#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "loza/attention/cpu/cpu.h"
#include "loza/attention/cpu/softmax_state.h"
#include "loza/attention/reference/reference.h"
#include "loza/attention/reference/visible.h"
#include "loza/base/parallel_for.h"
#include "loza/base/random.h"
#include "tests/attention/kernels/forward_case.h"
#include "tests/attention/kernels/instruction_sets.h"
#include "tests/attention/kernels/paged_case.h"
#include "tests/support/case_count.h"
#include "tests/support/compare.h"

// What must be equal bit for bit.
namespace loza::testing {
namespace {

using Bits = std::vector<std::uint64_t>;
using Layout = Operand::Layout;

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16};

Bits bits_of(const std::vector<float>& values) {
  Bits bits;
  for (const float value : values) {
    std::uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    bits.push_back(word);
  }
  return bits;
}

struct Result {
  Bits out, lse;
  friend bool operator==(const Result&, const Result&) = default;
};

Result attend(ForwardCase& c) {
  c.poison_outputs();
  cpu::attend(c.params());
  return {c.out.bits(), bits_of(c.lse)};
}

Result attend(PagedCase& c) {
  c.poison_outputs();
  cpu::attend_paged(c.params());
  return {c.out.bits(), bits_of(c.lse)};
}

TEST(Identity, StreamingThatSeesEverythingIsFull) {
  // All lengths up to what 1 + 7 blocks see whole.
  for (const std::int64_t block : {16, 8, 5}) {
    const std::int64_t step = block == 16 ? 1 : 7;
    for (std::int64_t len = 1; len <= 8 * block; len += step) {
      Shape shape{DType::kBF16, {block, 1, 7}, {{len, len}}, 2, 1, 32, 16, Layout::kPacked};
      if (len % 2 == 0) shape.dtype = DType::kF32;
      ForwardCase c(shape, 11);
      const Result streaming = attend(c);
      c.shape.pattern = BlockPattern::full(block);
      ASSERT_EQ(streaming, attend(c)) << len;
      ++case_count();
    }
  }
}

TEST(Identity, StreamingThatSeesEverythingIsFullInBlocksOf128) {
  for_each_instruction_set([] {
    for (const std::int64_t len : {127, 128, 129, 897, 1023, 1024}) {
      ForwardCase c({DType::kBF16, {}, {{len, len}}, 1, 1, 64, 64, Layout::kPacked}, 12);
      const Result streaming = attend(c);
      c.shape.pattern = BlockPattern::full();
      ASSERT_EQ(streaming, attend(c)) << len;
      ++case_count();
    }
  });
}

TEST(Identity, PagedStreamingThatSeesEverythingIsFull) {
  for (std::int64_t length = 1; length <= 128; ++length) {
    PagedShape shape;
    shape.dtype = kDTypes[length % 2];
    shape.pattern = {16, 1, 7};
    shape.lengths = {length};
    shape.q_len = 1 + length % 8;
    PagedCase c(shape, 13);
    const Result streaming = attend(c);
    c.shape.pattern = BlockPattern::full(16);
    ASSERT_EQ(streaming, attend(c)) << length;
    ++case_count();
  }
}

// Far from the beginning the CPU's splits are longer.
TEST(Identity, PagedStreamingThatSeesEverythingOfALongSequenceIsFull) {
  for (const DType dtype : kDTypes) {
    PagedShape shape;
    shape.dtype = dtype;
    shape.pattern = {128, 1, 199};
    shape.lengths = {16'385, 25'000};
    shape.q_len = 3;
    shape.page_len = 64;
    PagedCase c(shape, 13);
    const Result streaming = attend(c);
    c.shape.pattern = BlockPattern::full();
    EXPECT_EQ(streaming, attend(c)) << dtype_name(dtype);
    ++case_count();
  }
}

// A long streaming prompt: keys packed by all threads together, or by each for its own queries, by
// the number of threads.
TEST(Identity, LongPromptOnAnyNumberOfThreads) {
  const int threads = num_threads();
  for_each_instruction_set([&] {
    for (const std::int64_t block : {16, 5}) {
      for (const DType dtype : kDTypes) {
        const std::int64_t len = 300 * block + 7;
        ForwardCase c({dtype, {block, 1, 3}, {{len, len}}, 2, 2, 32, 16, Layout::kPacked}, 21);
        set_num_threads(1);
        const Result expected = attend(c);
        for (const int count : {2, 7, 64}) {
          set_num_threads(count);
          ASSERT_EQ(expected, attend(c)) << count;
          ++case_count();
        }
      }
    }
  });
  set_num_threads(threads);
}

// The rows of a whole prompt, computed chunk by chunk.
TEST(Identity, ChunkedIsWhole) {
  Random random(14);
  for_each_instruction_set([&] {
    for (const std::int64_t block : {5, 16, 32, 128}) {
      for (const BlockPattern& pattern : patterns_of(block)) {
        for (const DType dtype : kDTypes) {
          const std::int64_t len = 9 * block + 1 + random.below(block);
          if (len > 1400) continue;
          const Shape shape{dtype, pattern, {{len, len}}, 3, 1, 24, 40, Layout::kPacked};
          ForwardCase whole(shape, 15);
          const Result expected = attend(whole);
          std::int64_t begin = 0;
          while (begin < len) {
            const std::int64_t end = std::min(len, begin + 1 + random.below(3 * block));
            ForwardParams params = whole.params();
            const std::int64_t q_offsets[] = {0, end - begin}, k_offsets[] = {0, end};
            Operand out(dtype, len, 3, 40, Layout::kPacked);
            std::vector<float> lse(static_cast<std::size_t>((end - begin) * 3), std::nanf(""));
            params.q_offsets = q_offsets;
            params.k_offsets = k_offsets;
            params.q.data =
                static_cast<std::byte*>(params.q.data) +
                begin * params.q.token_stride * static_cast<std::int64_t>(element_bytes(dtype));
            params.out = out.view();
            params.lse = lse.data();
            cpu::attend(params);
            const Bits out_bits = out.bits(), lse_bits = bits_of(lse);
            ASSERT_TRUE(std::equal(out_bits.begin(), out_bits.begin() + (end - begin) * 120,
                                   expected.out.begin() + begin * 120))
                << begin << " " << end;
            ASSERT_TRUE(
                std::equal(lse_bits.begin(), lse_bits.end(), expected.lse.begin() + begin * 3));
            begin = end;
          }
          ++case_count();
        }
      }
    }
  });
}

// A chunk whose invisible past was left out.
TEST(Identity, LeavingOutWhatNobodySeesChangesNothing) {
  Random random(16);
  for (const std::int64_t block : {4, 16, 32}) {
    for (const BlockPattern& pattern : patterns_of(block)) {
      for (int i = 0; i < 8; ++i) {
        const DType dtype = kDTypes[i % 2];
        const std::int64_t q_len = 1 + random.below(2 * block);
        const std::int64_t k_len = q_len + random.below(14 * block);
        ForwardCase all({dtype, pattern, {{q_len, k_len}}, 2, 2, 16, 16, Layout::kPacked}, 17);
        const Result expected = attend(all);

        const VisibleBlocks first = visible_blocks(pattern, (k_len - q_len) / block);
        const std::int64_t kept = first.sink.end * block;
        const std::int64_t skipped = first.recent.begin * block - kept;
        ForwardCase some(
            {dtype, pattern, {{q_len, k_len - skipped}}, 2, 2, 16, 16, Layout::kPacked}, 17);
        some.q.copy_from(all.q);
        for (std::int64_t e = 0; e < some.k.tokens() * 32; ++e) {
          const std::int64_t from = e / 32 < kept ? e : e + skipped * 32;
          some.k.set(e, all.k.get(from));
          some.v.set(e, all.v.get(from));
        }
        some.poison_outputs();
        ForwardParams params = some.params();
        params.kept_prefix = &kept;
        params.skipped = &skipped;
        cpu::attend(params);
        ASSERT_EQ((Result{some.out.bits(), bits_of(some.lse)}), expected);
        ++case_count();
      }
    }
  }
}

TEST(Identity, ALeftOutKeyThatSomebodySeesIsRefused) {
  const BlockPattern pattern{16, 1, 2};
  ForwardCase c({DType::kF32, pattern, {{4, 100}}, 1, 1, 8, 8, Layout::kPacked}, 18);
  ForwardParams params = c.params();
  for (const auto& [kept, skipped] :
       {std::pair<std::int64_t, std::int64_t>{16, 8}, {8, 16}, {0, 16}, {96, 16}}) {
    params.kept_prefix = &kept;
    params.skipped = &skipped;
    EXPECT_THROW(cpu::attend(params), std::logic_error) << kept << " " << skipped;
  }
  const std::int64_t kept = 16, skipped = 160;
  params.kept_prefix = &kept;
  params.skipped = &skipped;
  EXPECT_NO_THROW(cpu::attend(params));
  params.pattern = BlockPattern::full(16);
  EXPECT_THROW(cpu::attend(params), std::logic_error);
}

TEST(Identity, TheOrderOfABatchDoesNotMatter) {
  const std::vector<Lengths> lengths{{40, 40}, {0, 7}, {3, 200}, {130, 130}, {17, 33}};
  for_each_instruction_set([&] {
    for (const DType dtype : kDTypes) {
      const Shape shape{dtype, {16, 1, 2}, lengths, 4, 2, 32, 32, Layout::kPacked};
      ForwardCase together(shape, 19);
      const Result expected = attend(together);
      for (std::size_t b = 0; b < lengths.size(); ++b) {
        Shape one = shape;
        one.sequences = {lengths[b]};
        ForwardCase alone(one, 0);
        const std::int64_t q_begin = together.q_offsets[b], k_begin = together.k_offsets[b];
        for (std::int64_t e = 0; e < alone.q.tokens() * 128; ++e) {
          alone.q.set(e, together.q.get(q_begin * 128 + e));
        }
        for (std::int64_t e = 0; e < alone.k.tokens() * 64; ++e) {
          alone.k.set(e, together.k.get(k_begin * 64 + e));
          alone.v.set(e, together.v.get(k_begin * 64 + e));
        }
        const Result result = attend(alone);
        ASSERT_TRUE(
            std::equal(result.out.begin(), result.out.end(), expected.out.begin() + q_begin * 128));
        ++case_count();
      }
    }
  });
}

TEST(Identity, OneTwoOrThreeThreads) {
  for_each_instruction_set([] {
    for (const DType dtype : kDTypes) {
      for (const BlockPattern& pattern : patterns_of(16)) {
        ForwardCase c({dtype, pattern, {{300, 300}, {20, 500}}, 4, 2, 32, 32, Layout::kPacked}, 20);
        Operand d_out(dtype, 320, 4, 32, Layout::kPacked);
        Random random(21);
        d_out.fill(random);
        PagedShape paged_shape;
        paged_shape.dtype = dtype;
        paged_shape.pattern = pattern;
        paged_shape.lengths = {1500, 3, 700};
        paged_shape.q_len = 3;
        paged_shape.heads = 4;
        paged_shape.key_heads = 2;
        PagedCase paged(paged_shape, 22);
        std::vector<Bits> first;
        for (const int threads : {1, 2, 3}) {
          set_num_threads(threads);
          std::vector<Bits> now{attend(c).out};
          now.push_back(bits_of(c.lse));
          Operand d_q(dtype, 320, 4, 32, Layout::kPacked), d_k(dtype, 800, 2, 32, Layout::kPacked),
              d_v(dtype, 800, 2, 32, Layout::kPacked);
          cpu::attend_backward({c.params(), d_out.view(), d_q.view(), {}, d_k.view(), d_v.view()});
          for (const Operand* gradient : {&d_q, &d_k, &d_v}) now.push_back(gradient->bits());
          now.push_back(attend(paged).out);
          now.push_back(bits_of(paged.lse));
          if (threads == 1) first = now;
          ASSERT_EQ(now, first) << threads;
          ++case_count();
        }
        set_num_threads(1);
      }
    }
  });
}

TEST(Identity, ARingIsPages) {
  for (const std::int64_t q_len : {1, 2, 5, 8}) {
    for (const BlockPattern& pattern : patterns_of(16)) {
      if (pattern.is_full()) continue;
      for (const DType dtype : kDTypes) {
        PagedShape shape;
        shape.dtype = dtype;
        shape.pattern = pattern;
        shape.q_len = q_len;
        shape.lengths = {500, 9, 129, 128, 640, 0, 1601};
        shape.page_len = 8;
        shape.heads = 2;
        PagedCase pages(shape, 23);
        shape.storage = Storage::kRing;
        PagedCase ring(shape, 23);
        ASSERT_EQ(attend(pages), attend(ring));
        ++case_count();
      }
    }
  }
}

// Decode over one split, with rows that are packed (of sizes that are not whole vectors), is what
// prefill computes for the last rows.
TEST(Identity, PagedIsContiguous) {
  for_each_instruction_set([] {
    for (const std::int64_t q_len : {1, 3, 8}) {
      for (const BlockPattern& pattern : patterns_of(16)) {
        for (const DType dtype : kDTypes) {
          PagedShape shape;
          shape.dtype = dtype;
          shape.pattern = pattern;
          shape.q_len = q_len;
          shape.lengths = {500, 9, 0, 129, 128, 511, 512};
          shape.heads = 6;
          shape.key_heads = 2;
          shape.qk_size = 40;
          shape.v_size = 24;
          PagedCase paged(shape, 24);
          ForwardCase plain = contiguous(paged, dtype);
          ASSERT_EQ(attend(paged), attend(plain));
          ++case_count();
        }
      }
    }
  });
}

// Tokens that are decoded together get what they get one by one.
TEST(Identity, ManyNewTokensAreOneByOne) {
  for (const std::int64_t block : {2, 16, 32, 128}) {
    for (const BlockPattern& pattern : patterns_of(block)) {
      for (const DType dtype : kDTypes) {
        PagedShape shape;
        shape.dtype = dtype;
        shape.pattern = pattern;
        shape.q_len = 8;
        shape.page_len = block;
        shape.lengths = {8 * block + 5};
        PagedCase together(shape, 25);
        const Result expected = attend(together);
        const std::int64_t length = shape.lengths[0];
        for (std::int64_t t = 0; t < 8; ++t) {
          shape.q_len = 1;
          shape.lengths = {length - 7 + t};
          PagedCase one(shape, 25);
          for (std::int64_t i = 0; i < 64; ++i) one.q.set(i, together.q.get(t * 64 + i));
          const Result result = attend(one);
          ASSERT_TRUE(
              std::equal(result.out.begin(), result.out.end(), expected.out.begin() + t * 64))
              << block << " " << t;
        }
        ++case_count();
      }
    }
  }
}

// States of parts of a row merge to the state of the row, whichever are empty.
TEST(Merge, GuardsEmptyParts) {
  using cpu::SoftmaxState;
  std::vector<float> nothing(2, std::nanf("")), some{3, 4}, out{0, 0};
  SoftmaxState whole;
  const SoftmaxState empty{5, 0, nothing.data()}, part{-2, 2, some.data()};
  whole.out = out.data();
  merge(empty, 2, whole);
  EXPECT_TRUE(whole.is_empty());
  EXPECT_EQ(whole.factor(), 0);
  EXPECT_EQ(whole.lse(), -std::numeric_limits<float>::infinity());
  merge(part, 2, whole);
  EXPECT_EQ(whole.max, -2);
  EXPECT_EQ(whole.sum, 2);
  EXPECT_EQ(out, some);
  merge(empty, 2, whole);
  EXPECT_EQ(out, some);
  merge({-1, 1, some.data()}, 2, whole);
  EXPECT_EQ(whole.max, -1);
  EXPECT_EQ(whole.sum, 2);
  EXPECT_EQ(out, (std::vector<float>{4.5f, 6}));
}

// A number that is not finite in one key or value reaches the rows that see it, and no other.
TEST(Hostile, WhatARowDoesNotSeeDoesNotReachIt) {
  Random random(26);
  for_each_instruction_set([&] {
    for (const std::int64_t block : {5, 16, 128}) {
      for (const BlockPattern& pattern : patterns_of(block)) {
        for (const DType dtype : kDTypes) {
          const std::int64_t len = 9 * std::min<std::int64_t>(block, 32) + 7;
          const Shape shape{dtype, pattern, {{len, len}}, 2, 1, 8, 8, Layout::kPacked};
          ForwardCase c(shape, 27);
          const Result clean = attend(c);
          const std::int64_t bad = random.below(len);
          const double value =
              random.below(2) == 0 ? std::nan("") : std::numeric_limits<double>::infinity();
          (random.below(2) == 0 ? c.k : c.v).fill_token(bad, value);
          const Result dirty = attend(c);
          for (std::int64_t pos = 0; pos < len; ++pos) {
            const bool sees = reference::is_visible(pattern, pos, bad);
            for (std::int64_t i = pos * 16; i < (pos + 1) * 16; ++i) {
              if (sees) continue;
              ASSERT_EQ(dirty.out[static_cast<std::size_t>(i)],
                        clean.out[static_cast<std::size_t>(i)])
                  << pos << " " << bad;
            }
            if (sees && std::isnan(value)) {
              ASSERT_TRUE(std::isnan(c.out.get(pos * 16)) && std::isnan(c.out.get(pos * 16 + 15)))
                  << pos << " " << bad;
            }
          }
          ++case_count();
        }
      }
    }
  });
}

TEST(Hostile, ANanInOneQueryStaysInItsRow) {
  for_each_instruction_set([] {
    for (const DType dtype : kDTypes) {
      ForwardCase c({dtype, {16, 1, 2}, {{90, 90}}, 2, 1, 16, 16, Layout::kPacked}, 28);
      const Result clean = attend(c);
      for (std::int64_t i = 0; i < 16; ++i) c.q.set((33 * 2 + 1) * 16 + i, std::nan(""));
      const Result dirty = attend(c);
      for (std::int64_t i = 0; i < 90 * 32; ++i) {
        if (i / 16 == 33 * 2 + 1) {
          ASSERT_TRUE(std::isnan(c.out.get(i)));
        } else {
          ASSERT_EQ(dirty.out[static_cast<std::size_t>(i)], clean.out[static_cast<std::size_t>(i)]);
        }
      }
      ASSERT_TRUE(std::isnan(c.lse[33 * 2 + 1]));
      ++case_count();
    }
  });
}

// Scores that are huge, equal, or grow from key to key.
TEST(Hostile, ExtremeScores) {
  for_each_instruction_set([] {
    for (const DType dtype : kDTypes) {
      for (const double size : {0.0, 1.0, 100.0, 1e4}) {
        ForwardCase c({dtype, {16, 1, 7}, {{200, 200}}, 1, 1, 16, 16, Layout::kPacked}, 29);
        for (std::int64_t i = 0; i < 200 * 16; ++i) {
          c.q.set(i, size);
          c.k.set(i, size * static_cast<double>(i / 16) / 200);
        }
        ForwardCase exact = c.in_fp64();
        reference::attend(exact.params());
        attend(c);
        for (std::int64_t i = 0; i < 200 * 16; ++i) {
          // Where scores are far apart a rounding of theirs may swap a near tie.
          ASSERT_TRUE(std::isfinite(c.out.get(i)));
          if (size <= 1) {
            ASSERT_NEAR(c.out.get(i), exact.out.get(i), dtype == DType::kF32 ? 1e-5 : 2e-2) << i;
          }
        }
        for (std::size_t i = 0; i < c.lse.size(); ++i) {
          ASSERT_NEAR(c.lse[i], exact.lse[i], 1e-5 + 1e-5 * std::fabs(exact.lse[i]));
        }
        ++case_count();
      }
    }
  });
}

TEST(Hostile, WrongParametersAreRefused) {
  ForwardCase c({DType::kF32, {16, 1, 2}, {{20, 20}}, 4, 2, 16, 16, Layout::kPacked}, 30);
  const auto refuses = [&](auto change) {
    ForwardParams params = c.params();
    change(params);
    EXPECT_THROW(cpu::attend(params), std::logic_error);
  };
  refuses([](ForwardParams& p) { p.num_key_heads = 3; });
  refuses([](ForwardParams& p) { p.num_heads = 0; });
  refuses([](ForwardParams& p) { p.qk_size = 0; });
  refuses([](ForwardParams& p) { p.v_size = -1; });
  refuses([](ForwardParams& p) { p.pattern.block_size = 0; });
  refuses([](ForwardParams& p) { p.pattern.recent_blocks = 0; });
  refuses([](ForwardParams& p) { p.pattern.sink_blocks = -1; });
  refuses([](ForwardParams& p) { p.dtype = DType::kF64; });
  const std::int64_t backwards[] = {5, 0};
  refuses([&](ForwardParams& p) { p.q_offsets = backwards; });
  refuses([&](ForwardParams& p) { p.k_offsets = backwards; });

  PagedShape shape;
  shape.pattern = {16, 1, 2};
  shape.lengths = {100};
  PagedCase paged(shape, 31);
  const auto refuses_paged = [&](auto change) {
    DecodeParams params = paged.params();
    change(params);
    EXPECT_THROW(cpu::attend_paged(params), std::logic_error);
  };
  refuses_paged([](DecodeParams& p) { p.q_len = 0; });
  refuses_paged([](DecodeParams& p) { p.q_len = 9; });
  refuses_paged([](DecodeParams& p) { p.kv.page_len = 5; });
  refuses_paged([](DecodeParams& p) { p.kv.table_stride = 3; });
  refuses_paged([](DecodeParams& p) {
    p.kv.sink_pages = 1;
    p.kv.ring_pages = 1;
  });
  refuses_paged([](DecodeParams& p) { p.kv.ring_pages = 2; });
  const std::int64_t negative = -1;
  refuses_paged([&](DecodeParams& p) { p.kv.lengths = &negative; });
}

}  // namespace
}  // namespace loza::testing
