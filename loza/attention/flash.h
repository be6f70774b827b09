#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

#include "loza/attention/attention.h"

// Attention on CUDA by the flash attention kernels that come with ATen, forward and backward.
// Streaming costs O(L): each query block is a sequence of its own, whose keys are gathered; what is
// gathered at one time is bounded. Parts of a row's keys are merged by their lse.
namespace loza::attention::flash {

// CUDA tensors in bf16 or fp16 with heads of at most 256, in multiples of 8. (The kernels are for
// compute capability 8.0 and above.)
bool can_attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// As attention::attend. REQUIRES: can_attend.
at::Tensor attend(const Queries& queries, const at::Tensor& k, const at::Tensor& v,
                  const Sequences& sequences, const BlockPattern& pattern, double scale,
                  bool needs_gradients);

// As attention::attend_with_lse.
std::pair<at::Tensor, at::Tensor> attend_with_lse(const Queries& queries, const at::Tensor& k,
                                                  const at::Tensor& v, const Sequences& sequences,
                                                  const BlockPattern& pattern, double scale);

}  // namespace loza::attention::flash
