#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "loza/attention/cuda/device/ptx.cuh"
#include "loza/attention/cuda/device/wgmma.cuh"
#include "tests/attention/cuda/cuda_check.h"

// One product of every operand form that the kernels use, against plain sums: layouts,
// descriptors and fragments.
namespace loza::attention::cuda {
namespace {

// One warpgroup. Rows: D[m][n] = sum_k A[m][k] B[n][k]; columns: D[m][n] = sum_k A[k][m] B[n][k],
// m, k in [0, 64), n in [0, kCols).
template <typename Element, Operand kForm, int kCols>
__global__ void multiply(const Element* a, const Element* b, float* d) {
  __shared__ alignas(kSubTileAlign) std::uint8_t shared_a[64 * kRowBytes];
  __shared__ alignas(kSubTileAlign) std::uint8_t shared_b[(kCols < 64 ? 64 : kCols) * kRowBytes];
  const auto put = [](std::uint8_t* tile, const Element* rows, int num_rows) {
    for (int i = threadIdx.x; i < num_rows * 64; i += blockDim.x) {
      const int row = i / 64, column = i % 64;
      *reinterpret_cast<Element*>(tile + chunk_offset(row, column / 8) + column % 8 * 2) = rows[i];
    }
  };
  put(shared_a, a, 64);
  put(shared_b, b, kCols);
  ptx::fence_async_proxy();
  __syncthreads();

  float sums[kCols / 2];
  const Descriptor rows_a = sub_tile_descriptor(ptx::shared_address(shared_a));
  const Descriptor rows_b = sub_tile_descriptor(ptx::shared_address(shared_b));
  constexpr int kStepA = kForm == Operand::kRows ? kRowOperandStep : kColumnOperandStep;
  wgmma_begin();
#pragma unroll
  for (int step = 0; step < kStepsPerSubTile; ++step) {
    wgmma<Element, kForm>(sums, rows_a + step * kStepA, rows_b + step * kRowOperandStep, step > 0);
  }
  wgmma_commit();
  wgmma_finish(sums);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kCols / 2; ++i) {
    const int row = 16 * warp + lane / 4 + 8 * (i / 2 % 2);
    const int column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
    d[row * kCols + column] = sums[i];
  }
}

template <typename Element, Operand kForm, int kCols>
void check_product() {
  std::mt19937 random(kCols);
  std::normal_distribution<float> normal;
  std::vector<Element> a(64 * 64), b(kCols * 64);
  for (auto& x : a) x = Element(normal(random));
  for (auto& x : b) x = Element(normal(random));
  DeviceArray<Element> device_a(a), device_b(b);
  DeviceArray<float> d(64 * kCols);
  d.fill_bytes(0xFF);
  multiply<Element, kForm, kCols><<<1, 128>>>(device_a.data(), device_b.data(), d.data());
  LOZA_CUDA_CHECK(cudaDeviceSynchronize());
  const auto got = d.get();
  for (int m = 0; m < 64; ++m) {
    for (int n = 0; n < kCols; ++n) {
      double want = 0;
      for (int k = 0; k < 64; ++k) {
        const int index = kForm == Operand::kRows ? m * 64 + k : k * 64 + m;
        want += static_cast<double>(static_cast<float>(a[index])) *
                static_cast<double>(static_cast<float>(b[n * 64 + k]));
      }
      ASSERT_NEAR(got[m * kCols + n], want, 1e-3) << "row " << m << " column " << n;
    }
  }
}

template <typename Element, Operand kForm>
void check_widths() {
  check_product<Element, kForm, 8>();
  check_product<Element, kForm, 16>();
  check_product<Element, kForm, 24>();
  check_product<Element, kForm, 32>();
  check_product<Element, kForm, 64>();
  check_product<Element, kForm, 128>();
}

// A from registers, B along its rows: D[m][n] = sum_k A[m][k] B[k][n], m, k in [0, 64), n in
// [0, kCols), B as sub-tiles of 64 columns.
template <typename Element, int kCols>
__global__ void multiply_fragment(const Element* a, const Element* b, float* d) {
  __shared__ alignas(kSubTileAlign) std::uint8_t shared_b[kCols / 64][64 * kRowBytes];
  for (int i = threadIdx.x; i < 64 * kCols; i += blockDim.x) {
    const int row = i / kCols, column = i % kCols;
    *reinterpret_cast<Element*>(shared_b[column / 64] + chunk_offset(row, column % 64 / 8) +
                                column % 8 * 2) = b[i];
  }
  ptx::fence_async_proxy();
  __syncthreads();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  std::uint32_t fragments[4][4];
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      const int row = 16 * warp + lane / 4 + 8 * (word % 2);
      const int column = 16 * step + 2 * (lane % 4) + 8 * (word / 2);
      fragments[step][word] = pack<Element>(static_cast<float>(a[row * 64 + column]),
                                            static_cast<float>(a[row * 64 + column + 1]));
    }
  }
  float sums[kCols / 2];
  const Descriptor columns_b =
      sub_tile_descriptor(ptx::shared_address(shared_b), sizeof shared_b[0]);
  wgmma_begin();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    wgmma_of_fragment<Element>(sums, fragments[step], columns_b + step * kColumnOperandStep,
                               step > 0);
  }
  wgmma_commit();
  wgmma_finish(sums);
#pragma unroll
  for (int i = 0; i < kCols / 2; ++i) {
    const int row = 16 * warp + lane / 4 + 8 * (i / 2 % 2);
    const int column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
    d[row * kCols + column] = sums[i];
  }
}

template <typename Element, int kCols>
void check_fragment_product() {
  std::mt19937 random(kCols);
  std::normal_distribution<float> normal;
  std::vector<Element> a(64 * 64), b(64 * kCols);
  for (auto& x : a) x = Element(normal(random));
  for (auto& x : b) x = Element(normal(random));
  DeviceArray<Element> device_a(a), device_b(b);
  DeviceArray<float> d(64 * kCols);
  d.fill_bytes(0xFF);
  multiply_fragment<Element, kCols><<<1, 128>>>(device_a.data(), device_b.data(), d.data());
  LOZA_CUDA_CHECK(cudaDeviceSynchronize());
  const auto got = d.get();
  for (int m = 0; m < 64; ++m) {
    for (int n = 0; n < kCols; ++n) {
      double want = 0;
      for (int k = 0; k < 64; ++k) {
        want += static_cast<double>(static_cast<float>(a[m * 64 + k])) *
                static_cast<double>(static_cast<float>(b[k * kCols + n]));
      }
      ASSERT_NEAR(got[m * kCols + n], want, 1e-3) << "row " << m << " column " << n;
    }
  }
}

TEST(Wgmma, RowOperandBf16) { check_widths<bf16, Operand::kRows>(); }
TEST(Wgmma, ColumnOperandBf16) { check_widths<bf16, Operand::kColumns>(); }
TEST(Wgmma, RowOperandFp16) { check_widths<fp16, Operand::kRows>(); }
TEST(Wgmma, ColumnOperandFp16) { check_widths<fp16, Operand::kColumns>(); }
TEST(Wgmma, FragmentBf16) {
  check_fragment_product<bf16, 64>();
  check_fragment_product<bf16, 128>();
  check_fragment_product<bf16, 256>();
}
TEST(Wgmma, FragmentFp16) {
  check_fragment_product<fp16, 64>();
  check_fragment_product<fp16, 128>();
  check_fragment_product<fp16, 256>();
}

}  // namespace
}  // namespace loza::attention::cuda
