#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

// The door to the model's CUDA kernels (cuda/row_kernels.h) from tensors. A build without them
// takes nothing.
namespace loza::on_gpu {

// Whether the calls below take rows like these: by device, dtype and strides.
bool takes(const at::Tensor& x);

// As rotate() in elementwise.h, without gradients: x [T, heads, prefix + P], cos and sin [T, P / 2]
// fp32; sin_sign -1 turns back. REQUIRES: takes(x).
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                  std::int64_t prefix, bool interleaved, float sin_sign);

// As swiglu() in elementwise.h, without gradients. REQUIRES: takes(gate_up).
at::Tensor swiglu(const at::Tensor& gate_up);

}  // namespace loza::on_gpu
