#pragma once

#include <ATen/core/Tensor.h>

namespace loza {

// x [T, H, K] times each head's matrix of `weight` [H, K, N], of any strides -> [T, H, N].
// On the CPU in fp32 and bf16 the matrices are read where they lie (cpu/head_products.h), which
// libtorch copies first; not differentiable there.
at::Tensor head_product(const at::Tensor& x, const at::Tensor& weight);

}  // namespace loza
