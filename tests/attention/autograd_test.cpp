#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "loza/attention/attention.h"
#include "loza/attention/reference/torch_ops.h"
#include "tests/support/case_count.h"

namespace loza::attention {
namespace {

struct Leaves {
  at::Tensor q, k, v;
};

Leaves leaves_of(at::ScalarType dtype, std::int64_t len, std::int64_t heads, std::int64_t key_heads,
                 std::int64_t qk_size, std::int64_t v_size) {
  torch::manual_seed(5);
  const auto leaf = [&](std::int64_t of_heads, std::int64_t size) {
    return torch::randn({len, of_heads, size}, at::kDouble).to(dtype).requires_grad_(true);
  };
  return {leaf(heads, qk_size), leaf(key_heads, qk_size), leaf(key_heads, v_size)};
}

TEST(Autograd, FiniteDifferencesInFp64) {
  for (const BlockPattern& pattern :
       {BlockPattern{4, 1, 1}, BlockPattern{4, 0, 2}, BlockPattern::full(4)}) {
    const Sequences sequences = Sequences::whole({0, 13, 13, 20});
    Leaves x = leaves_of(at::kDouble, 20, 4, 2, 3, 5);
    const at::Tensor weights = torch::randn({20, 4, 5}, at::kDouble);
    const auto loss = [&] {
      return (attend(x.q, x.k, x.v, sequences, pattern, 0.7) * weights).sum();
    };
    loss().backward();
    const at::NoGradGuard no_grad;
    for (at::Tensor* leaf : {&x.q, &x.k, &x.v}) {
      const at::Tensor flat = leaf->view(-1), gradient = leaf->grad().view(-1);
      for (std::int64_t i = 0; i < flat.numel(); ++i) {
        constexpr double h = 1e-5;
        const double value = flat[i].item<double>();
        flat[i] = value + h;
        const double above = loss().item<double>();
        flat[i] = value - h;
        const double below = loss().item<double>();
        flat[i] = value;
        ASSERT_NEAR((above - below) / (2 * h), gradient[i].item<double>(), 1e-8) << i;
      }
    }
    ++testing::case_count();
  }
}

// The kernels' gradients against torch's own, through torch operations in fp64.
TEST(Autograd, KernelsAgreeWithTorchOperations) {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    for (const BlockPattern& pattern :
         {BlockPattern{16, 1, 2}, BlockPattern{16, 0, 4}, BlockPattern::full(16)}) {
      const Sequences sequences = Sequences::whole({0, 150, 151, 200});
      Leaves x = leaves_of(dtype, 200, 6, 2, 32, 16);
      const at::Tensor d_out = torch::randn({200, 6, 16}, at::kDouble).to(dtype);
      attend(x.q, x.k, x.v, sequences, pattern, 0.2).backward(d_out);
      const auto exact = [](const at::Tensor& leaf) {
        return leaf.detach().to(at::kDouble).requires_grad_(true);
      };
      Leaves y{exact(x.q), exact(x.k), exact(x.v)};
      torch_ops::attend(y.q, y.k, y.v, sequences, pattern, 0.2).backward(d_out.to(at::kDouble));
      const double tolerance = dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 2e-5 : 2e-2;
      const auto expect_close = [&](const at::Tensor& a, const at::Tensor& b) {
        const double largest = b.abs().max().item<double>();
        EXPECT_EQ(a.scalar_type(), dtype);
        EXPECT_LE((a.to(at::kDouble) - b).abs().max().item<double>(), tolerance * largest);
      };
      expect_close(x.q.grad(), y.q.grad());
      expect_close(x.k.grad(), y.k.grad());
      expect_close(x.v.grad(), y.v.grad());
      ++testing::case_count();
    }
  }
}

TEST(Autograd, OnlyWhatNeedsAGradientGetsOne) {
  const Sequences sequences = Sequences::whole({0, 40});
  const BlockPattern pattern{8, 1, 2};
  Leaves all = leaves_of(at::kFloat, 40, 2, 1, 8, 8);
  attend(all.q, all.k, all.v, sequences, pattern, 0.3).square().sum().backward();
  for (int needed = 0; needed < 8; ++needed) {
    Leaves x = leaves_of(at::kFloat, 40, 2, 1, 8, 8);
    x.q.requires_grad_((needed & 1) != 0);
    x.k.requires_grad_((needed & 2) != 0);
    x.v.requires_grad_((needed & 4) != 0);
    const at::Tensor out = attend(x.q, x.k, x.v, sequences, pattern, 0.3);
    EXPECT_EQ(out.requires_grad(), needed != 0);
    if (needed != 0) out.square().sum().backward();
    const auto expect = [&](const at::Tensor& leaf, const at::Tensor& of_all, bool is_needed) {
      ASSERT_EQ(leaf.grad().defined(), is_needed);
      if (!is_needed) return;
      EXPECT_TRUE(leaf.grad().equal(of_all.grad()));
    };
    expect(x.q, all.q, (needed & 1) != 0);
    expect(x.k, all.k, (needed & 2) != 0);
    expect(x.v, all.v, (needed & 4) != 0);
    ++testing::case_count();
  }
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(attend(all.q, all.k, all.v, sequences, pattern, 0.3).requires_grad());
}

// Views with gaps as inputs, and gradients that come in expanded or turned.
TEST(Autograd, StridesOfInputsAndGradients) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    torch::manual_seed(6);
    const at::Tensor rows = torch::randn({50, 4, 20}).to(dtype).requires_grad_(true);
    const Sequences sequences = Sequences::whole({0, 50});
    const BlockPattern pattern{8, 1, 2};
    const auto run = [&](bool contiguous) {
      const auto part = [&](std::int64_t begin, std::int64_t heads) {
        const at::Tensor view = rows.narrow(1, begin, heads).narrow(2, 2, 16);
        return contiguous ? view.contiguous() : view;
      };
      return attend(part(0, 2), part(2, 1), part(3, 1), sequences, pattern, 0.3);
    };
    const auto gradient = [&](bool contiguous, const at::Tensor& d_out) {
      rows.mutable_grad() = at::Tensor();
      run(contiguous).backward(d_out);
      return rows.grad().clone();
    };
    const at::Tensor ones = torch::ones({50, 2, 16}).to(dtype);
    const at::Tensor expanded = torch::ones({1}).to(dtype).expand({50, 2, 16});
    EXPECT_TRUE(gradient(true, ones).equal(gradient(false, expanded)));
    const at::Tensor random = torch::randn({50, 2, 16}).to(dtype);
    const at::Tensor turned = random.transpose(0, 2).contiguous().transpose(0, 2);
    EXPECT_TRUE(gradient(true, random).equal(gradient(false, turned)));
    ++testing::case_count();
  }
}

TEST(Autograd, SecondDerivativesAreRefused) {
  Leaves x = leaves_of(at::kFloat, 20, 2, 1, 8, 8);
  const at::Tensor out =
      attend(x.q, x.k, x.v, Sequences::whole({0, 20}), BlockPattern{8, 1, 2}, 0.3);
  EXPECT_ANY_THROW(torch::autograd::grad({out.sum()}, {x.q}, {}, /*retain_graph=*/true,
                                         /*create_graph=*/true));
}

}  // namespace
}  // namespace loza::attention
