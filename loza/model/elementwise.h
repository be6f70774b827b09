#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "loza/model/rope.h"

// What a layer does to single numbers, each in one pass over memory: on the CPU in fp32 and
// bf16 by loops of our own (cpu/row_kernels.h), on a Hopper GPU by kernels where they save launches
// (cuda/row_kernels.h), elsewhere by torch operations. All are
// differentiable, and give the same numbers with and without autograd.
namespace loza {

// x / sqrt(mean(x^2) + eps) * weight over the last dimension, [T, size] or [T, heads, size] ->
// the same shape and dtype. Statistics in fp32 (fp64 for fp64).
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

// gate_up [T, 2 * I], gate beside up -> silu(gate) * up, [T, I].
at::Tensor swiglu(const at::Tensor& gate_up);

// x [T, heads, prefix + P]: the first `prefix` elements of each head stay, of the others each
// pair (a, b) becomes (a cos - b sin, b cos + a sin). Computed in fp32, or x's dtype if wider.
at::Tensor rotate(const at::Tensor& x, const Rotation& rotation, std::int64_t prefix = 0);

}  // namespace loza
