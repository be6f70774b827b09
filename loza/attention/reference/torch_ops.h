#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>

#include "loza/attention/attention.h"

// Attention in plain torch operations: any device, any floating dtype, differentiable by
// torch itself. It serves devices that have no kernels here, and tests as a second opinion.
// A streaming pattern costs O(L): each query block gathers its own window of keys.
//
// One promise of params.h is weaker here: rows of the sequence that a query does not see must
// be finite, since they are multiplied by zero.
namespace loza::torch_ops {

// As attention::attend (attention.h), on any device.
at::Tensor attend(const attention::Queries& queries, const at::Tensor& k, const at::Tensor& v,
                  const attention::Sequences& sequences, const BlockPattern& pattern, double scale);

// The same with the lse [T, H] fp32 (fp64 for fp64 inputs).
std::pair<at::Tensor, at::Tensor> attend_with_lse(const attention::Queries& queries,
                                                  const at::Tensor& k, const at::Tensor& v,
                                                  const attention::Sequences& sequences,
                                                  const BlockPattern& pattern, double scale);

using AttendFn = at::Tensor (*)(const attention::Queries& queries, const at::Tensor& k,
                                const at::Tensor& v, const attention::Sequences& sequences,
                                const BlockPattern& pattern, double scale);

// As attention::attend_paged, each sequence by itself: its visible rows are gathered, attend_rows
// does the rest. The pages lie on q's device, the table and the lengths on the host.
at::Tensor attend_paged(const attention::Queries& queries, const PagedKvView& kv,
                        std::int64_t num_sequences, std::int64_t num_key_heads, std::int64_t v_size,
                        const BlockPattern& pattern, double scale, AttendFn attend_rows = attend);

}  // namespace loza::torch_ops
