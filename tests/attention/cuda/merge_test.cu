#include "loza/attention/cuda/merge.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/attention/cuda/low_precision.cuh"

// The merge of two attentions against fp64.
namespace loza::attention::cuda {
namespace {

struct PartOnHost {
  std::vector<std::uint16_t> out;
  std::vector<float> lse;
};

template <typename Element>
class MergeCase {
 public:
  static constexpr std::int64_t kTokens = 37, kHeads = 5;
  static constexpr std::int64_t kGap = 8;

  explicit MergeCase(std::int64_t v_size) : v_(v_size), random_(v_size) {
    for (PartOnHost* part : {&a_, &b_}) fill(*part);
    // A part without keys holds anything.
    for (const std::int64_t row : {3, 4}) make_empty(a_, row);
    for (const std::int64_t row : {4, 5}) make_empty(b_, row);
  }

  void check(bool in_place) {
    DeviceArray<std::uint16_t> a(a_.out), b(b_.out), out(a_.out.size());
    DeviceArray<float> lse_a(a_.lse), lse_b(b_.lse), lse(a_.lse.size());
    out.fill_bytes(0xFF);
    lse.fill_bytes(0xFF);
    MergeParams params;
    params.dtype = std::is_same_v<Element, bf16> ? DType::kBF16 : DType::kF16;
    params.num_tokens = kTokens;
    params.num_heads = kHeads;
    params.v_size = v_;
    params.a = {view(a.data()), lse_a.data()};
    params.b = {view(b.data()), lse_b.data()};
    params.out = in_place ? params.a.out : view(out.data());
    params.lse = in_place ? lse_a.data() : lse.data();
    const Status status = merge(params, nullptr);
    ASSERT_TRUE(status.ok()) << status.message;
    LOZA_CUDA_CHECK(cudaDeviceSynchronize());
    expect_right(in_place ? a.get() : out.get(), in_place ? lse_a.get() : lse.get());
    if (in_place) return;
    DeviceArray<std::uint16_t> swapped(a_.out.size());
    swapped.fill_bytes(0xFF);
    std::swap(params.a, params.b);
    params.out = view(swapped.data());
    ASSERT_TRUE(merge(params, nullptr).ok());
    EXPECT_TRUE(swapped.get() == out.get()) << "the order of the parts shows";
  }

 private:
  std::int64_t head_stride() const { return v_ + kGap; }
  std::int64_t token_stride() const { return kHeads * head_stride() + kGap; }
  TensorView view(void* data) const { return {data, token_stride(), head_stride()}; }
  std::int64_t index(std::int64_t row, std::int64_t d) const {
    return row / kHeads * token_stride() + row % kHeads * head_stride() + d;
  }
  static std::uint16_t bits_of(float value) {
    const Element element(value);
    std::uint16_t bits;
    std::memcpy(&bits, &element, sizeof bits);
    return bits;
  }
  double value(std::uint16_t bits) const {
    return element_value(std::is_same_v<Element, bf16> ? DType::kBF16 : DType::kF16, bits);
  }

  void fill(PartOnHost& part) {
    std::normal_distribution<float> normal;
    part.out.assign(kTokens * token_stride(), 0xFFFF);
    for (std::int64_t row = 0; row < kTokens * kHeads; ++row) {
      part.lse.push_back(3 * normal(random_));
      for (std::int64_t d = 0; d < v_; ++d) part.out[index(row, d)] = bits_of(normal(random_));
    }
  }
  void make_empty(PartOnHost& part, std::int64_t row) {
    part.lse[row] = -INFINITY;
    for (std::int64_t d = 0; d < v_; ++d) part.out[index(row, d)] = 0xFFFF;
  }

  void expect_right(const std::vector<std::uint16_t>& out, const std::vector<float>& lse) const {
    const double unit = std::is_same_v<Element, bf16> ? 0x1p-8 : 0x1p-11;
    for (std::int64_t row = 0; row < kTokens * kHeads; ++row) {
      const double sum = std::exp(double{a_.lse[row]}) + std::exp(double{b_.lse[row]});
      if (sum == 0) {
        EXPECT_EQ(lse[row], -INFINITY) << row;
      } else {
        EXPECT_NEAR(lse[row], std::log(sum), 1e-5) << row;
      }
      for (std::int64_t d = 0; d < v_; ++d) {
        double want = 0;
        for (const PartOnHost* part : {&a_, &b_}) {
          if (std::isinf(part->lse[row])) continue;
          want += std::exp(double{part->lse[row]}) / sum * value(part->out[index(row, d)]);
        }
        ASSERT_NEAR(value(out[index(row, d)]), want, unit * std::fabs(want) * 1.01 + 1e-5)
            << "row " << row << " d " << d;
      }
    }
    std::vector<bool> is_output(out.size(), false);
    for (std::int64_t row = 0; row < kTokens * kHeads; ++row) {
      for (std::int64_t d = 0; d < v_; ++d) is_output[index(row, d)] = true;
    }
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (!is_output[i]) ASSERT_EQ(out[i], 0xFFFF) << "wrote outside the output at " << i;
    }
  }

  std::int64_t v_;
  std::mt19937 random_;
  PartOnHost a_, b_;
};

TEST(CudaMerge, AgainstFp64) {
  for (const std::int64_t v : {8, 64, 128, 200, 512}) {
    SCOPED_TRACE(v);
    for (const bool in_place : {false, true}) {
      MergeCase<bf16>(v).check(in_place);
      MergeCase<fp16>(v).check(in_place);
    }
  }
}

TEST(CudaMerge, Refusals) {
  MergeParams params;
  params.num_tokens = 1;
  params.num_heads = 1;
  params.v_size = 12;
  EXPECT_EQ(merge(params, nullptr).code, StatusCode::kUnsupported);
  params.v_size = 16;
  EXPECT_EQ(merge(params, nullptr).code, StatusCode::kBadArgument);
  params.num_tokens = 0;
  EXPECT_TRUE(merge(params, nullptr).ok());
}

}  // namespace
}  // namespace loza::attention::cuda
