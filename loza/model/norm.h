#pragma once

#include <ATen/core/Tensor.h>

namespace loza {

// x / sqrt(mean(x^2) + eps) * weight over the last dimension, [..., size] -> the same shape and
// dtype. Statistics in fp32 (fp64 for fp64). Differentiable.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace loza
