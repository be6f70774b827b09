#pragma once

#include <ATen/core/Tensor.h>

#include "loza/attention/attention.h"

namespace loza::attention {

// attend() on CPU tensors, recorded for backpropagation: gradients by the kernels, for those of
// queries, k and v that need one. There are no second derivatives. REQUIRES: no key was left out
// (Sequences::skipped).
at::Tensor attend_with_gradients(const Queries& queries, const at::Tensor& k, const at::Tensor& v,
                                 const Sequences& sequences, const BlockPattern& pattern,
                                 double scale);

}  // namespace loza::attention
