#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "loza/base/dtype.h"

// The model's elementwise steps on a GPU, one kernel each, where a chain of tensor operations would
// be six launches. Pointers are of the device; elements are fp32, bf16 or fp16 (`dtype`),
// arithmetic is fp32. A call launches on `stream` and returns; a CUDA graph can capture it.
namespace loza::model_cuda {

// Whether these kernels run on the current device: they are compiled for Hopper.
bool is_available();

// out [T, H, size] = x with each head turned as rotate() in elementwise.h says; size = prefix +
// 2 * half.
struct Rotation {
  DType dtype = DType::kBF16;
  std::int64_t num_tokens = 0, num_heads = 0, prefix = 0, half = 0;
  const void* x = nullptr;  // elements of a head are contiguous
  std::int64_t x_token_stride = 0, x_head_stride = 0;
  void* out = nullptr;         // contiguous
  const float* cos = nullptr;  // [T, half]
  const float* sin = nullptr;
  float sin_sign = 1;
  bool interleaved = false;
};
cudaError_t rotate(const Rotation& rotation, cudaStream_t stream);

// out [T, size] = silu(gate) * up, gate_up [T, gate beside up]. The first factor is rounded as
// torch's operations round it.
struct Swiglu {
  DType dtype = DType::kBF16;
  std::int64_t num_tokens = 0, size = 0;
  const void* gate_up = nullptr;
  std::int64_t token_stride = 0;
  void* out = nullptr;  // contiguous
};
cudaError_t swiglu(const Swiglu& swiglu, cudaStream_t stream);

}  // namespace loza::model_cuda
