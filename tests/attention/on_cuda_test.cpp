#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "loza/attention/attention.h"
#include "loza/attention/flash.h"
#include "loza/attention/on_hopper.h"
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

// The sizes and pages that the kernels for Hopper take, by way of the door.
class OnHopper : public OnCuda {
 protected:
  void SetUp() override {
    OnCuda::SetUp();
    if (IsSkipped()) return;
    const at::Tensor x = torch::zeros({1, 1, 64}, at::device(at::kCUDA).dtype(at::kBFloat16));
    const auto status = on_hopper::check(x, x, x, BlockPattern{}, 1);
    if (!status.ok()) GTEST_SKIP() << status.message;
  }
};

TEST_F(OnHopper, Forward) {
  const at::NoGradGuard no_grad;
  for (const auto dtype : {at::kBFloat16, at::kHalf}) {
    for (const BlockPattern& pattern :
         {BlockPattern{}, BlockPattern{128, 1, 2}, BlockPattern{256, 1, 1}, BlockPattern::full()}) {
      for (const bool has_sink_queries : {false, true}) {
        for (const auto& [qk_size, v_size] : {std::pair{64, 64}, {128, 128}, {192, 128}}) {
          testing::Call call =
              testing::random_call(dtype, {5, 1500, 0, 333}, 6, 2, qk_size, v_size);
          if (!has_sink_queries) call.sink_q = at::Tensor();
          const auto on_cuda = [](const at::Tensor& x) { return x.defined() ? x.cuda() : x; };
          const Queries queries(on_cuda(call.q), on_cuda(call.sink_q));
          // Values as a slice of something wider, keys whose heads are not where rows are aligned.
          const at::Tensor v = at::cat({call.v, call.v}, 2).cuda().narrow(2, v_size, v_size);
          const at::Tensor k = call.k.transpose(0, 1).contiguous().cuda().transpose(0, 1);
          ASSERT_TRUE(on_hopper::check(queries, k, v, pattern, 0.1).ok());
          const auto [out, lse] = attend_with_lse(queries, k, v, call.sequences, pattern, 0.1);
          const auto [exact, exact_lse] = torch_ops::attend_with_lse(
              {call.q.to(at::kDouble),
               has_sink_queries ? call.sink_q.to(at::kDouble) : at::Tensor()},
              call.k.to(at::kDouble), call.v.to(at::kDouble), call.sequences, pattern, 0.1);
          EXPECT_LE((out.cpu() - exact).abs().max().item<double>(), 2e-2);
          EXPECT_LE((lse.cpu() - exact_lse).abs().max().item<double>(), 1e-4);
          EXPECT_TRUE(attend(queries, k, v, call.sequences, pattern, 0.1).equal(out));
          ++loza::testing::case_count();
        }
      }
    }
  }
}

TEST_F(OnHopper, Decode) {
  torch::manual_seed(9);
  const std::int64_t page_len = 64, heads = 6, key_heads = 2;
  for (const std::int64_t size : {64, 128}) {
    const at::Tensor pages = torch::randn({80, page_len, 2 * key_heads * size}).to(at::kBFloat16);
    const at::Tensor on_device = pages.cuda();
    const at::Tensor table = torch::randperm(80, at::kInt).view({2, 40}).contiguous();
    for (const std::int64_t length : {2500, 2499, 2048, 700, 3}) {  // uploads of every step
      const std::vector<std::int64_t> lengths{length, 2};
      const PagedKvView kv = testing::view_of_pages(pages, table, lengths, key_heads, 0);
      PagedKvView moved = kv;
      moved.pages = on_device.data_ptr();
      for (const BlockPattern& pattern : {BlockPattern{}, BlockPattern::full()}) {
        for (const std::int64_t q_len : {1, 3}) {
          const auto randn = [&] {
            return torch::randn({2 * q_len, heads, size}).to(at::kBFloat16);
          };
          const at::Tensor q = randn(), sink_q = randn();
          ASSERT_TRUE(
              on_hopper::check_paged(q.cuda(), moved, 2, key_heads, size, pattern, 0.1).ok());
          const at::Tensor expected =
              attend_paged({q, sink_q}, kv, 2, key_heads, size, pattern, 0.1);
          const at::Tensor out =
              attend_paged({q.cuda(), sink_q.cuda()}, moved, 2, key_heads, size, pattern, 0.1);
          EXPECT_LE((out.cpu() - expected).abs().max().item<double>(), 2e-2);
          ++loza::testing::case_count();
        }
      }
    }
  }
}

TEST_F(OnHopper, DecodeOfLatentRows) {
  torch::manual_seed(10);
  const at::Tensor pages = torch::randn({40, 64, 576}).to(at::kBFloat16);
  const at::Tensor on_device = pages.cuda();
  const at::Tensor table = torch::randperm(40, at::kInt).view({1, 40}).contiguous();
  const std::vector<std::int64_t> lengths{2400};
  PagedKvView kv = testing::view_of_pages(pages, table, lengths, 1, 0);
  kv.k_head_stride = 576;
  kv.v_offset = kv.v_head_stride = 0;
  PagedKvView moved = kv;
  moved.pages = on_device.data_ptr();
  for (const BlockPattern& pattern : {BlockPattern{}, BlockPattern::full()}) {
    const at::Tensor q = torch::randn({1, 16, 576}).to(at::kBFloat16);
    const at::Tensor expected = attend_paged(q, kv, 1, 1, 512, pattern, 0.07);
    ASSERT_TRUE(on_hopper::check_paged(q.cuda(), moved, 1, 1, 512, pattern, 0.07).ok());
    const at::Tensor out = attend_paged(q.cuda(), moved, 1, 1, 512, pattern, 0.07);
    EXPECT_LE((out.cpu() - expected).abs().max().item<double>(), 2e-2);
  }
}

}  // namespace
}  // namespace loza::attention
