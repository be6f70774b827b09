#pragma once

#include <cmath>
#include <cstdint>

#include "loza/attention/cuda/device/element.cuh"
#include "loza/base/dtype.h"
#include "tests/attention/cuda/cuda_check.h"

// Random contents in 16-bit types, and how far results computed in them may be off.
namespace loza::attention::cuda {

enum class Scores { kRandom, kEqual, kLarge, kGrowing };

__device__ inline float random_value(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t x = seed * 0x9E3779B97F4A7C15ull + index;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  x ^= x >> 31;
  // The sum of four uniform values: nearly normal, variance 1.
  float sum = 0;
  for (int i = 0; i < 4; ++i) sum += static_cast<float>((x >> (16 * i)) & 0xFFFF) / 65536.0f - 0.5f;
  return sum * 1.7320508f;
}

template <typename Element>
__global__ void fill_values(Element* data, std::int64_t size, std::uint64_t seed) {
  for (std::int64_t i = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x; i < size;
       i += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
    data[i] = static_cast<Element>(random_value(seed, i));
  }
}

template <typename Element>
void fill_random(const DeviceArray<Element>& array, std::uint64_t seed) {
  fill_values<<<2048, 256>>>(array.data(), static_cast<std::int64_t>(array.size()), seed);
  LOZA_CUDA_CHECK(cudaGetLastError());
}

// Rows of `row_size` values times the row's gain; NaN stays NaN: poison.
template <typename Element>
__global__ void fill_rows(Element* data, std::int64_t row_size, const float* gains,
                          std::uint64_t seed) {
  const float gain = gains[blockIdx.x];
  for (std::int64_t i = threadIdx.x; i < row_size; i += blockDim.x) {
    const std::int64_t index = blockIdx.x * row_size + i;
    data[index] = static_cast<Element>(random_value(seed, index) * gain);
  }
}

// Elements as bits; `gains` on the device.
inline void fill_random_rows(DType dtype, std::uint16_t* data, std::int64_t rows,
                             std::int64_t row_size, const float* gains, std::uint64_t seed) {
  if (rows == 0) return;
  if (dtype == DType::kBF16) {
    fill_rows<<<rows, 128>>>(reinterpret_cast<bf16*>(data), row_size, gains, seed);
  } else {
    fill_rows<<<rows, 128>>>(reinterpret_cast<fp16*>(data), row_size, gains, seed);
  }
  LOZA_CUDA_CHECK(cudaGetLastError());
}

inline float element_value(DType dtype, std::uint16_t bits) {
  if (dtype == DType::kBF16) {
    BFloat16 value;
    value.bits = bits;
    return static_cast<float>(value);
  }
  __half_raw raw;
  raw.x = bits;
  return static_cast<float>(__half(raw));
}

// The bound of the arithmetic: P and the output rounded to the element type, everything else in
// fp32. `magnitude` is sum_j p_j |v_jd|, `score_size` the largest scale * sum |q k|.
struct Bounds {
  DType dtype;
  double unit, tiny;

  Bounds(DType of, std::int64_t num_keys) : dtype(of) {
    unit = dtype == DType::kBF16 ? std::ldexp(1, -8) : std::ldexp(1, -11);
    tiny = 1e-6;
    // fp16 P below 2^-14 is subnormal: an absolute error each.
    if (dtype == DType::kF16) tiny += std::ldexp(1, -25) * 4 * static_cast<double>(num_keys);
  }
  bool allow_lse(double got, double want, double score_size) const {
    if (std::isinf(want)) return got == want;
    return std::fabs(got - want) <= 2e-5 + std::ldexp(1, -20) * score_size;
  }
  double of_out(double want, double magnitude, double score_size) const {
    // Score errors in fp32 scale P by 1 + the same.
    const double relative = 1.25 * unit + std::ldexp(1, -20) * score_size;
    return relative * magnitude + unit * std::fabs(want) + tiny;
  }
  bool allow_out(double got, double want, double magnitude, double score_size) const {
    return std::fabs(got - want) <= of_out(want, magnitude, score_size);
  }
};

}  // namespace loza::attention::cuda
