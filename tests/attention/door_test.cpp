#include "loza/attention/attention.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "loza/attention/on_hopper.h"
#include "loza/attention/reference/torch_ops.h"
#include "loza/attention/reference/visible.h"
#include "tests/attention/paged_view.h"
#include "tests/support/case_count.h"

namespace loza::attention {
namespace {

using at::indexing::Slice;

struct Case {
  at::ScalarType dtype;
  BlockPattern pattern;
  std::vector<std::int64_t> q_lens, k_lens;
  std::int64_t heads, key_heads, qk_size, v_size;
};

struct Inputs {
  at::Tensor q, k, v;
  Sequences sequences;
};

std::vector<std::int64_t> offsets_of(const std::vector<std::int64_t>& lengths) {
  std::vector<std::int64_t> offsets{0};
  for (const std::int64_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

Inputs inputs_of(const Case& c) {
  torch::manual_seed(1);
  Inputs in;
  in.sequences.q_offsets = offsets_of(c.q_lens);
  in.sequences.k_offsets = offsets_of(c.k_lens);
  const auto randn = [&](std::int64_t tokens, std::int64_t heads, std::int64_t size) {
    return torch::randn({tokens, heads, size}, at::kDouble).to(c.dtype);
  };
  in.q = randn(in.sequences.q_offsets.back(), c.heads, c.qk_size);
  in.k = randn(in.sequences.k_offsets.back(), c.key_heads, c.qk_size);
  in.v = randn(in.sequences.k_offsets.back(), c.key_heads, c.v_size);
  return in;
}

// By one mask over everything: a third statement of the rule, in fp64.
std::pair<at::Tensor, at::Tensor> by_mask(const Inputs& in, const BlockPattern& pattern,
                                          double scale) {
  std::vector<at::Tensor> outs, lses;
  const std::int64_t group = in.q.size(1) / in.k.size(1);
  for (std::size_t b = 0; b < static_cast<std::size_t>(in.sequences.size()); ++b) {
    const auto rows = [&](const at::Tensor& x, const std::vector<std::int64_t>& offsets) {
      return x.index({Slice(offsets[b], offsets[b + 1])}).to(at::kDouble).transpose(0, 1);
    };
    const at::Tensor q = rows(in.q, in.sequences.q_offsets);
    const at::Tensor k = rows(in.k, in.sequences.k_offsets).repeat_interleave(group, 0);
    const at::Tensor v = rows(in.v, in.sequences.k_offsets).repeat_interleave(group, 0);
    const std::int64_t first = k.size(1) - q.size(1);
    at::Tensor mask = at::zeros({q.size(1), k.size(1)}, at::kBool);
    auto visible = mask.accessor<bool, 2>();
    for (std::int64_t t = 0; t < q.size(1); ++t) {
      for (std::int64_t j = 0; j < k.size(1); ++j) {
        visible[t][j] = reference::is_visible(pattern, first + t, j);
      }
    }
    const at::Tensor scores =
        (q.matmul(k.transpose(1, 2)) * scale).masked_fill(mask.logical_not(), -INFINITY);
    outs.push_back(at::softmax(scores, -1).matmul(v).transpose(0, 1));
    lses.push_back(scores.logsumexp(-1).transpose(0, 1));
  }
  return {at::cat(outs), at::cat(lses)};
}

double error(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

std::vector<Case> cases() {
  std::vector<Case> cases;
  for (const BlockPattern& pattern :
       {BlockPattern{8, 1, 7}, BlockPattern{8, 1, 1}, BlockPattern{8, 0, 4}, BlockPattern{8, 2, 2},
        BlockPattern::full(8)}) {
    for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
      cases.push_back({dtype, pattern, {70}, {70}, 2, 1, 16, 24});
      cases.push_back({dtype, pattern, {3, 20, 1}, {3, 50, 90}, 6, 3, 8, 8});
    }
  }
  return cases;
}

double tolerance_of(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 5e-6 : 3e-2;
}

TEST(Door, KernelsAndTorchOperationsAgreeWithAMask) {
  for (const Case& c : cases()) {
    const Inputs in = inputs_of(c);
    const auto [expected, expected_lse] = by_mask(in, c.pattern, 0.3);
    const double tolerance = tolerance_of(c.dtype);
    const auto check = [&](const at::Tensor& out) {
      EXPECT_EQ(out.scalar_type(), c.dtype);
      EXPECT_EQ(out.sizes(), expected.sizes());
      EXPECT_LE(error(out, expected), tolerance);
      ++loza::testing::case_count();
    };
    check(attend(in.q, in.k, in.v, in.sequences, c.pattern, 0.3));
    check(torch_ops::attend(in.q, in.k, in.v, in.sequences, c.pattern, 0.3));
    const auto [out, lse] = attend_with_lse(in.q, in.k, in.v, in.sequences, c.pattern, 0.3);
    check(out);
    EXPECT_EQ(lse.scalar_type(), at::kFloat);
    EXPECT_LE(error(lse, expected_lse), 2e-5);
    const auto [torch_out, torch_lse] =
        torch_ops::attend_with_lse(in.q, in.k, in.v, in.sequences, c.pattern, 0.3);
    check(torch_out);
    EXPECT_LE(error(torch_lse, expected_lse), 2e-5);
  }
}

TEST(Door, StridedViewsAreReadAsTheyLie) {
  torch::manual_seed(2);
  const std::int64_t len = 60, heads = 4, key_heads = 2, size = 16;
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const at::Tensor rows = torch::randn({len, heads + 2 * key_heads, size + 5}).to(dtype);
    const auto slice = [&](std::int64_t begin, std::int64_t count) {
      return rows.narrow(1, begin, count).narrow(2, 3, size);
    };
    const at::Tensor q = slice(0, heads), k = slice(heads, key_heads),
                     v = slice(heads + key_heads, key_heads);
    const BlockPattern pattern{8, 1, 2};
    const Sequences sequences = Sequences::whole({0, len});
    const at::Tensor expected =
        attend(q.contiguous(), k.contiguous(), v.contiguous(), sequences, pattern, 0.25);
    EXPECT_TRUE(attend(q, k, v, sequences, pattern, 0.25).equal(expected));
    // Heads first in memory, and a last dimension that isn't contiguous.
    const at::Tensor heads_first = q.transpose(0, 1).contiguous().transpose(0, 1);
    EXPECT_TRUE(attend(heads_first, k, v, sequences, pattern, 0.25).equal(expected));
    const at::Tensor turned = k.transpose(0, 2).contiguous().transpose(0, 2);
    EXPECT_TRUE(attend(q, turned, v, sequences, pattern, 0.25).equal(expected));
    ++loza::testing::case_count();
  }
}

TEST(Door, LeftOutKeysInKernelsAndTorchOperations) {
  torch::manual_seed(3);
  const BlockPattern pattern{8, 1, 2};
  for (const std::int64_t q_len : {1, 5, 8, 20}) {
    const std::int64_t k_len = 100, first = k_len - q_len;
    const at::Tensor q = torch::randn({q_len, 2, 8}), k = torch::randn({k_len, 1, 8}),
                     v = torch::randn({k_len, 1, 8});
    Sequences all;
    all.q_offsets = {0, q_len};
    all.k_offsets = {0, k_len};
    const at::Tensor expected = attend(q, k, v, all, pattern, 0.3);
    const std::int64_t recent = visible_blocks(pattern, first / 8).recent.begin * 8;
    const auto kept = [&](const at::Tensor& x) {
      return at::cat({x.narrow(0, 0, 8), x.narrow(0, recent, k_len - recent)});
    };
    Sequences some = all;
    some.k_offsets = {0, 8 + k_len - recent};
    some.kept_prefix = {8};
    some.skipped = {recent - 8};
    EXPECT_TRUE(attend(q, kept(k), kept(v), some, pattern, 0.3).equal(expected));
    EXPECT_LE(error(torch_ops::attend(q, kept(k), kept(v), some, pattern, 0.3), expected), 1e-6);
    ++loza::testing::case_count();
  }
}

TEST(Door, EmptyInputs) {
  const BlockPattern pattern{8, 1, 2};
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const auto zeros = [&](std::int64_t tokens) {
      return torch::zeros({tokens, 2, 4}, at::TensorOptions(dtype));
    };
    EXPECT_EQ(attend(zeros(0), zeros(0), zeros(0), Sequences::whole({0}), pattern, 1).size(0), 0);
    EXPECT_EQ(attend(zeros(0), zeros(0), zeros(0), Sequences::whole({0, 0, 0}), pattern, 1).size(0),
              0);
    // Queries without any key.
    Sequences blind;
    blind.q_offsets = {0, 3};
    blind.k_offsets = {0, 0};
    const auto [out, lse] = attend_with_lse(zeros(3), zeros(0), zeros(0), blind, pattern, 1);
    EXPECT_TRUE(out.equal(zeros(3)));
    EXPECT_TRUE(lse.eq(-INFINITY).all().item<bool>());
    ++loza::testing::case_count();
  }
}

TEST(Door, PagedKernelsAndTorchOperationsAgree) {
  torch::manual_seed(4);
  const std::int64_t page_len = 4, heads = 4, key_heads = 2, size = 8, num_pages = 40;
  for (const auto tensor_dtype : {at::kFloat, at::kBFloat16, at::kDouble, at::kHalf}) {
    for (const std::int64_t ring_pages : {0, 6}) {
      const at::Tensor pages =
          torch::randn({num_pages, page_len, 2 * key_heads * size}).to(tensor_dtype);
      const at::Tensor table =
          torch::randperm(num_pages, at::kInt).narrow(0, 0, 40).view({2, 20}).contiguous();
      const std::vector<std::int64_t> lengths{71, 2};
      const PagedKvView kv = testing::view_of_pages(pages, table, lengths, key_heads, ring_pages);
      const at::Tensor q = torch::randn({2 * 3, heads, size}).to(tensor_dtype);
      const BlockPattern pattern{8, 1, 2};
      const at::Tensor out = attend_paged(q, kv, 2, key_heads, size, pattern, 0.3);
      EXPECT_EQ(out.scalar_type(), tensor_dtype);
      EXPECT_LE(error(out, torch_ops::attend_paged(q, kv, 2, key_heads, size, pattern, 0.3)),
                tolerance_of(tensor_dtype));
      // Three new tokens where the sequence has two: the first sees nothing.
      EXPECT_TRUE(out[3].eq(0).all().item<bool>());
      ++loza::testing::case_count();
    }
  }
}

// The last queries over all keys, and over the keys before them and their own apart.
TEST(Door, MergedPartsAreTheWhole) {
  const std::int64_t num_past = 70, num_new = 30, all = num_past + num_new;
  const BlockPattern full = BlockPattern::full();
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const Inputs in = inputs_of({dtype, full, {num_new}, {all}, 4, 2, 16, 24});
    const auto [out, lse] = attend_with_lse(in.q, in.k, in.v, in.sequences, full, 0.3);
    Sequences own = Sequences::whole({0, num_new});
    const auto [own_out, own_lse] =
        attend_with_lse(in.q, in.k.slice(0, num_past), in.v.slice(0, num_past), own, full, 0.3);
    // A sequence for each query, which so sees all of the past.
    Sequences alone;
    for (std::int64_t i = 0; i <= num_new; ++i) {
      alone.q_offsets.push_back(i);
      alone.k_offsets.push_back(i * num_past);
    }
    const auto repeated = [&](const at::Tensor& x) {
      return x.slice(0, 0, num_past).repeat({num_new, 1, 1});
    };
    const auto [past_out, past_lse] =
        attend_with_lse(in.q, repeated(in.k), repeated(in.v), alone, full, 0.3);
    const auto [merged, merged_lse] = merge(past_out, past_lse, own_out, own_lse);
    EXPECT_LE((merged - out).abs().max().item<double>(), dtype == at::kFloat ? 1e-5 : 3e-2);
    EXPECT_LE((merged_lse - lse).abs().max().item<double>(), 1e-3);
    const at::Tensor nothing = at::full_like(out, NAN), none = at::full_like(lse, -INFINITY);
    const auto [same, same_lse] = merge(nothing, none, out, lse);
    EXPECT_TRUE(same.equal(out) && same_lse.equal(lse));
    const auto [empty, empty_lse] = merge(nothing, none, nothing, none);
    EXPECT_TRUE(empty.eq(0).all().item<bool>() && empty_lse.equal(none));
    ++loza::testing::case_count();
  }
}

TEST(Door, HopperKernelsSayWhyTheyRefuse) {
  const at::Tensor x = torch::zeros({1, 1, 64});
  EXPECT_NE(std::string(on_hopper::check(x, x, x, BlockPattern{}, 1).message), "");
  EXPECT_NE(
      std::string(on_hopper::check_paged(x, PagedKvView{}, 1, 1, 64, BlockPattern{}, 1).message),
      "");
  EXPECT_FALSE(on_hopper::check_merge(x).ok());
}

TEST(Door, WrongCallsAreRefused) {
  const at::Tensor x = torch::zeros({10, 2, 4});
  const BlockPattern pattern{8, 1, 2};
  const Sequences whole = Sequences::whole({0, 10});
  const auto refuses = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const Sequences& sequences) {
    EXPECT_THROW(attend(q, k, v, sequences, pattern, 1), std::logic_error);
    ++loza::testing::case_count();
  };
  refuses(x.to(at::kDouble), x, x, whole);
  refuses(x.to(at::kInt), x.to(at::kInt), x.to(at::kInt), whole);
  refuses(x.flatten(1), x, x, whole);
  refuses(x, torch::zeros({10, 2, 5}), x, whole);
  refuses(x, torch::zeros({9, 2, 4}), x, whole);
  refuses(x, torch::zeros({10, 3, 4}), torch::zeros({10, 3, 4}), whole);
  refuses(x, x, torch::zeros({10, 1, 4}), whole);
  refuses(x, x, x, Sequences::whole({0, 9}));
  refuses(x, x, x, Sequences::whole({1, 10}));
  refuses(x, x, x, Sequences::whole({0, 11, 10}));
  Sequences uneven = whole;
  uneven.k_offsets = {0, 5, 10};
  refuses(x, x, x, uneven);
  Sequences short_lists = Sequences::whole({0, 5, 10});
  short_lists.skipped = {0};
  refuses(x, x, x, short_lists);
}

}  // namespace
}  // namespace loza::attention
