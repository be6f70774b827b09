#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "loza/attention/cpu/cpu.h"
#include "loza/attention/reference/reference.h"
#include "loza/attention/sequence.h"
#include "tests/attention/kernels/forward_case.h"
#include "tests/attention/kernels/instruction_sets.h"
#include "tests/attention/kernels/low_precision.h"
#include "tests/attention/kernels/paged_case.h"
#include "tests/support/case_count.h"
#include "tests/support/compare.h"

// Sink queries are attention without them over vectors twice as long: queries [q, sink_q], keys of
// the sink [0, k], others [k, 0]. So the call without sink queries, which has tests of its own, is
// the truth here.
namespace loza::testing {
namespace {

using Layout = Operand::Layout;

bool sees_sink_apart(const BlockPattern& pattern, std::int64_t query_pos) {
  return query_pos >= 0 && visible_blocks(pattern, query_pos / pattern.block_size).sink.size() > 0;
}

struct SinkCase : ForwardCase {
  Operand sink_q, d_out, d_q, d_sink_q, d_k, d_v;

  SinkCase(const Shape& of, std::uint64_t seed)
      : ForwardCase(of, seed),
        sink_q(of.dtype, q.tokens(), of.heads, of.qk_size, of.layout),
        d_out(of.dtype, q.tokens(), of.heads, of.v_size, of.layout),
        d_q(of.dtype, q.tokens(), of.heads, of.qk_size, of.layout),
        d_sink_q(of.dtype, q.tokens(), of.heads, of.qk_size, of.layout),
        d_k(of.dtype, k.tokens(), of.key_heads, of.qk_size, of.layout),
        d_v(of.dtype, k.tokens(), of.key_heads, of.v_size, of.layout) {
    Random random(seed + 1);
    sink_q.fill(random);
    d_out.fill(random);
    for (Operand* operand : {&d_q, &d_sink_q, &d_k, &d_v}) operand->poison();
  }

  ForwardParams params() {
    ForwardParams params = ForwardCase::params();
    params.sink_q = sink_q.view();
    return params;
  }
  BackwardParams backward_params() {
    return {params(), d_out.view(), d_q.view(), d_sink_q.view(), d_k.view(), d_v.view()};
  }
};

// The same as a case without sink queries, in a dtype.
struct LongCase : ForwardCase {
  Operand d_out, d_q, d_k, d_v;

  LongCase(SinkCase& of, DType dtype)
      : ForwardCase(shape_of(of.shape, dtype), 0),
        d_out(dtype, q.tokens(), shape.heads, shape.v_size, shape.layout),
        d_q(dtype, q.tokens(), shape.heads, shape.qk_size, shape.layout),
        d_k(dtype, k.tokens(), shape.key_heads, shape.qk_size, shape.layout),
        d_v(dtype, k.tokens(), shape.key_heads, shape.v_size, shape.layout) {
    v.copy_from(of.v);
    d_out.copy_from(of.d_out);
    const std::int64_t size = of.shape.qk_size;
    for (std::int64_t b = 0; b < static_cast<std::int64_t>(shape.sequences.size()); ++b) {
      const SequenceRows rows = sequence_rows(of.params(), b);
      for (std::int64_t token = rows.q_begin; token < rows.q_end; ++token) {
        const bool apart =
            sees_sink_apart(shape.pattern, rows.first_query_pos() + token - rows.q_begin);
        for (std::int64_t i = 0; i < shape.heads * size; ++i) {
          const std::int64_t from = token * shape.heads * size + i;
          const std::int64_t to = (from / size) * 2 * size + from % size;
          q.set(to, of.q.get(from));
          q.set(to + size, apart ? of.sink_q.get(from) : of.q.get(from));
        }
      }
      for (std::int64_t token = rows.k_begin; token < rows.k_end; ++token) {
        const bool in_sink = is_in_sink(token - rows.k_begin);
        for (std::int64_t i = 0; i < shape.key_heads * size; ++i) {
          const std::int64_t from = token * shape.key_heads * size + i;
          const std::int64_t to = (from / size) * 2 * size + from % size;
          k.set(to, in_sink ? 0 : of.k.get(from));
          k.set(to + size, in_sink ? of.k.get(from) : 0);
        }
      }
    }
  }

  ForwardParams params() {
    ForwardParams params = ForwardCase::params();
    params.scale = 1 / std::sqrt(static_cast<double>(shape.qk_size / 2));
    return params;
  }
  BackwardParams backward_params() {
    return {params(), d_out.view(), d_q.view(), {}, d_k.view(), d_v.view()};
  }

  bool is_in_sink(std::int64_t pos) const {
    return pos / shape.pattern.block_size < shape.pattern.sink_blocks;
  }

  // From gradients of the long vectors [.., 2D] to those of q, sink_q and k.
  struct Split {
    std::vector<double> d_q, d_sink_q, d_k;
  };
  Split split(const std::vector<double>& long_d_q, const std::vector<double>& long_d_k) {
    Split split;
    const std::int64_t size = shape.qk_size / 2;
    for (std::int64_t b = 0; b < static_cast<std::int64_t>(shape.sequences.size()); ++b) {
      const SequenceRows rows = sequence_rows(params(), b);
      for (std::int64_t i = rows.q_begin * shape.heads; i < rows.q_end * shape.heads; ++i) {
        const std::int64_t pos = rows.first_query_pos() + i / shape.heads - rows.q_begin;
        const bool apart = sees_sink_apart(shape.pattern, pos);
        for (std::int64_t j = 0; j < size; ++j) {
          const double first = long_d_q[static_cast<std::size_t>(i * 2 * size + j)];
          const double second = long_d_q[static_cast<std::size_t>(i * 2 * size + size + j)];
          split.d_q.push_back(apart ? first : first + second);
          split.d_sink_q.push_back(apart ? second : 0);
        }
      }
      for (std::int64_t i = rows.k_begin * shape.key_heads; i < rows.k_end * shape.key_heads; ++i) {
        const bool in_sink = is_in_sink(i / shape.key_heads - rows.k_begin);
        for (std::int64_t j = 0; j < size; ++j) {
          split.d_k.push_back(
              long_d_k[static_cast<std::size_t>(i * 2 * size + (in_sink ? size : 0) + j)]);
        }
      }
    }
    return split;
  }

 private:
  static Shape shape_of(Shape shape, DType dtype) {
    shape.dtype = dtype;
    shape.qk_size *= 2;
    shape.layout = Layout::kPacked;
    return shape;
  }
};

std::vector<Shape> sink_shapes() {
  const std::vector<Heads> heads{{1, 1, 64, 64}, {6, 2, 64, 64}, {2, 2, 48, 32}, {6, 3, 33, 17}};
  std::vector<Shape> shapes;
  std::size_t next = 0;
  for (const std::int64_t block : {16, 24, 128}) {
    for (const BlockPattern& pattern : patterns_of(block)) {
      for (const DType dtype : {DType::kBF16, DType::kF32}) {
        const Layout layout = next % 2 == 0 ? Layout::kGaps : Layout::kPacked;
        const std::vector<Lengths> sequences =
            block == 128 ? std::vector<Lengths>{{300, 1300}}
                         : std::vector<Lengths>{{5, 5}, {0, 40}, {150, 150}, {33, 300}, {40, 37}};
        shapes.push_back(with_heads({dtype, pattern, sequences, 1, 1, 64, 64, layout},
                                    heads[next++ % heads.size()]));
      }
    }
  }
  return shapes;
}

class SinkQueries : public ::testing::TestWithParam<Shape> {};

TEST_P(SinkQueries, AreHalfOfLongerVectors) {
  SinkCase c(GetParam(), 6);
  LongCase exact(c, DType::kF64), plain(c, c.shape.dtype);
  reference::attend(exact.params());
  reference::attend_backward(exact.backward_params());
  const auto gradients = exact.split(exact.d_q.values(), exact.d_k.values());
  LowPrecision low(plain.params());
  low.forward();
  low.backward(plain.d_out.view());
  const auto low_gradients = plain.split(low.d_q, low.d_k);
  const bool is_bf16 = c.shape.dtype == DType::kBF16;
  const auto tolerance = [&](const std::vector<double>& ref, const std::vector<double>& rounded) {
    const double largest = std::fmax(1, largest_magnitude(ref));
    return is_bf16
               ? Tolerance{1e-3 * largest, 2, std::fmax(5e-5, 2 * cosine_distance(ref, rounded))}
               : Tolerance{1e-5 * largest, 2, 1e-8};
  };
  const auto check = [&] {
    EXPECT_TRUE(
        is_close(c.out.values(), exact.out.values(), low.out, {1e-6, 2, is_bf16 ? 5e-6 : 1e-10}));
    EXPECT_TRUE(is_close(c.lse_values(), exact.lse_values(), exact.lse_values(), {2e-5}));
    EXPECT_TRUE(is_close(c.d_q.values(), gradients.d_q, low_gradients.d_q,
                         tolerance(gradients.d_q, low_gradients.d_q)));
    EXPECT_TRUE(is_close(c.d_sink_q.values(), gradients.d_sink_q, low_gradients.d_sink_q,
                         tolerance(gradients.d_sink_q, low_gradients.d_sink_q)));
    EXPECT_TRUE(is_close(c.d_k.values(), gradients.d_k, low_gradients.d_k,
                         tolerance(gradients.d_k, low_gradients.d_k)));
    EXPECT_TRUE(is_close(c.d_v.values(), exact.d_v.values(), low.d_v,
                         tolerance(exact.d_v.values(), low.d_v)));
    for (const Operand* operand : {&c.out, &c.d_q, &c.d_sink_q, &c.d_k, &c.d_v}) {
      EXPECT_TRUE(operand->gaps_are_untouched());
    }
    ++case_count();
  };
  reference::attend(c.params());
  reference::attend_backward(c.backward_params());
  check();
  for_each_instruction_set([&] {
    c.poison_outputs();
    for (Operand* operand : {&c.d_q, &c.d_sink_q, &c.d_k, &c.d_v}) operand->poison();
    cpu::attend(c.params());
    cpu::attend_backward(c.backward_params());
    check();
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, SinkQueries, ::testing::ValuesIn(sink_shapes()), shape_name);

// Sink queries that are the queries change no bit.
TEST(SinkQueries, EqualToTheQueriesChangeNothing) {
  SinkCase c({DType::kBF16, {16, 1, 2}, {{200, 200}}, 2, 1, 32, 32, Layout::kPacked}, 7);
  c.sink_q.copy_from(c.q);
  for_each_instruction_set([&] {
    cpu::attend(c.ForwardCase::params());
    const auto expected = c.out.bits();
    c.poison_outputs();
    cpu::attend(c.params());
    EXPECT_EQ(c.out.bits(), expected);
    ++case_count();
  });
}

std::vector<PagedShape> sink_paged_shapes() {
  std::vector<PagedShape> shapes;
  std::size_t next = 0;
  for (const std::int64_t block : {4, 16, 48}) {
    for (const BlockPattern& pattern : patterns_of(block)) {
      for (const Storage storage : {Storage::kPages, Storage::kRing}) {
        if (storage == Storage::kRing && pattern.is_full()) continue;
        PagedShape shape;
        shape.dtype = next++ % 2 == 0 ? DType::kBF16 : DType::kF32;
        shape.pattern = pattern;
        shape.q_len = 1 + static_cast<std::int64_t>(next % 8);
        shape.lengths = {8 * block, 0, 9 * block + 1, 2 * block + 3, 1, 700};
        shape.heads = 4;
        shape.key_heads = 2;
        shape.page_len = block / 2;
        shape.storage = storage;
        shape.layout = next % 2 == 0 ? Layout::kGaps : Layout::kPacked;
        shapes.push_back(shape);
      }
    }
  }
  return shapes;
}

class SinkQueriesInDecode : public ::testing::TestWithParam<PagedShape> {};

// Decode against prefill: the contiguous form of the same rows, in fp64.
TEST_P(SinkQueriesInDecode, AreThoseOfPrefill) {
  PagedCase c(GetParam(), 8);
  Operand sink_q(c.shape.dtype, c.q.tokens(), c.shape.heads, c.shape.qk_size, c.shape.layout);
  Random random(9);
  sink_q.fill(random);
  const auto with_sink_q = [](auto params, Operand& sink) {
    params.sink_q = sink.view();
    return params;
  };
  ForwardCase exact = contiguous(c, DType::kF64);
  Operand exact_sink_q(DType::kF64, c.q.tokens(), c.shape.heads, c.shape.qk_size, Layout::kPacked);
  exact_sink_q.copy_from(sink_q);
  reference::attend(with_sink_q(exact.params(), exact_sink_q));
  const auto out = exact.out.values(), lse = exact.lse_values();
  const bool is_bf16 = c.shape.dtype == DType::kBF16;
  const Tolerance tolerance = is_bf16 ? Tolerance{8e-3, 0, 2e-5} : Tolerance{2e-6, 0, 1e-10};
  c.poison_outputs();
  reference::attend_paged(with_sink_q(c.params(), sink_q));
  EXPECT_TRUE(is_close(c.out.values(), out, out, tolerance));
  for_each_instruction_set([&] {
    c.poison_outputs();
    cpu::attend_paged(with_sink_q(c.params(), sink_q));
    EXPECT_TRUE(is_close(c.out.values(), out, out, tolerance));
    EXPECT_TRUE(is_close(c.lse_values(), lse, lse, {2e-5}));
    EXPECT_TRUE(c.out.gaps_are_untouched());
    ++case_count();
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, SinkQueriesInDecode, ::testing::ValuesIn(sink_paged_shapes()),
                         shape_name);

}  // namespace
}  // namespace loza::testing
