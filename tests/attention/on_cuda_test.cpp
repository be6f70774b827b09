#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "loza/attention/attention.h"
#include "loza/attention/flash.h"
#include "loza/attention/reference/torch_ops.h"
#include "tests/attention/paged_view.h"
#include "tests/attention/two_ways.h"
#include "tests/support/case_count.h"

// The door on a GPU against torch operations in fp64 on the CPU. Skipped where there is no GPU.
namespace loza::attention {
namespace {

class OnCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (torch::cuda::device_count() == 0) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(OnCuda, ForwardAndBackward) {
  for (const auto dtype : {at::kBFloat16, at::kHalf, at::kFloat}) {
    for (const BlockPattern& pattern :
         {BlockPattern{16, 1, 7}, BlockPattern{16, 2, 1}, BlockPattern{16, 0, 4},
          BlockPattern{128, 1, 2}, BlockPattern::full(16)}) {
      for (const bool has_sink_queries : {false, true}) {
        for (const auto& [qk_size, v_size] : {std::pair{64, 64}, {48, 32}, {192, 128}}) {
          testing::Call call = testing::random_call(dtype, {5, 700, 0, 333}, 6, 2, qk_size, v_size);
          call.scale = 0.1;
          if (!has_sink_queries) call.sink_q = at::Tensor();
          EXPECT_EQ(flash::can_attend(call.q.cuda(), call.k.cuda(), call.v.cuda()),
                    dtype != at::kFloat);
          testing::expect_close(
              testing::run(call, attend, pattern, dtype, at::kCUDA),
              testing::run(call, torch_ops::attend, pattern, at::kDouble, at::kCPU),
              dtype == at::kFloat ? 1e-4 : 2e-2);
          ++loza::testing::case_count();
        }
      }
    }
  }
}

// Long enough for another library's kernels.
TEST_F(OnCuda, OneLongSequence) {
  for (const BlockPattern& pattern : {BlockPattern::full(), BlockPattern{128, 1, 100}}) {
    testing::Call call = testing::random_call(at::kBFloat16, {9000}, 6, 2, 64, 48);
    call.scale = 0.1;
    const testing::Results on_cuda = testing::run(call, attend, pattern, at::kBFloat16, at::kCUDA);
    testing::expect_close(on_cuda, testing::run(call, attend, pattern, at::kBFloat16, at::kCPU),
                          3e-2);
    ++loza::testing::case_count();
  }
}

// What a chunk of a prompt sees: the sink and a recent stretch are there, the rest is not.
TEST_F(OnCuda, LeftOutKeys) {
  const BlockPattern pattern{16, 1, 2};
  for (const std::int64_t q_len : {1, 5, 16, 100}) {
    const testing::Call call = testing::random_call(at::kBFloat16, {400}, 4, 2, 64, 64);
    const std::int64_t first = 400 - q_len;
    Sequences all = call.sequences, some = call.sequences;
    all.q_offsets = some.q_offsets = {0, q_len};
    const std::int64_t recent = visible_blocks(pattern, first / 16).recent.begin * 16;
    const auto kept = [&](const at::Tensor& x) {
      return at::cat({x.narrow(0, 0, 16), x.narrow(0, recent, 400 - recent)}).cuda();
    };
    some.k_offsets = {0, 16 + 400 - recent};
    some.kept_prefix = {16};
    some.skipped = {recent - 16};
    const Queries queries(call.q.narrow(0, first, q_len), call.sink_q.narrow(0, first, q_len));
    const at::NoGradGuard no_grad;
    const auto [expected, expected_lse] =
        attend_with_lse(queries, call.k, call.v, all, pattern, 0.1);
    const auto [out, lse] = attend_with_lse({queries.q.cuda(), queries.sink_q.cuda()}, kept(call.k),
                                            kept(call.v), some, pattern, 0.1);
    EXPECT_LE((out.cpu() - expected).abs().max().item<double>(), 2e-2);
    EXPECT_LE((lse.cpu() - expected_lse).abs().max().item<double>(), 1e-3);
    ++loza::testing::case_count();
  }
}

TEST_F(OnCuda, Decode) {
  torch::manual_seed(8);
  const std::int64_t page_len = 8, heads = 4, key_heads = 2, size = 64;
  const BlockPattern pattern{16, 1, 2};
  for (const std::int64_t ring_pages : {0, 6}) {
    const at::Tensor pages = torch::randn({64, page_len, 2 * key_heads * size}).to(at::kBFloat16);
    const at::Tensor on_device = pages.cuda();
    const at::Tensor table = torch::randperm(64, at::kInt).view({2, 32}).contiguous();
    const std::vector<std::int64_t> lengths{ring_pages == 0 ? 250 : 61, 2};
    const PagedKvView kv = testing::view_of_pages(pages, table, lengths, key_heads, ring_pages);
    for (const BlockPattern& of : {pattern, BlockPattern::full(16)}) {
      if (of.is_full() && ring_pages != 0) continue;
      const auto randn = [&] { return torch::randn({2 * 3, heads, size}).to(at::kBFloat16); };
      const at::Tensor q = randn(), sink_q = randn();
      const at::Tensor expected = attend_paged({q, sink_q}, kv, 2, key_heads, size, of, 0.1);
      PagedKvView moved = kv;
      moved.pages = on_device.data_ptr();
      const at::Tensor out =
          attend_paged({q.cuda(), sink_q.cuda()}, moved, 2, key_heads, size, of, 0.1);
      EXPECT_LE((out.cpu() - expected).abs().max().item<double>(), 2e-2);
      EXPECT_TRUE(out[3].eq(0).all().item<bool>());  // a token before the sequence's beginning
      ++loza::testing::case_count();
    }
  }
}

}  // namespace
}  // namespace loza::attention
