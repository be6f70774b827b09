#pragma once

#include "loza/attention/params.h"

// The definition, token by token: for any size, in fp64, from inputs of any dtype. Slow and
// obvious; the kernels are tested against it, and fp64 tensors are computed by it.
namespace loza::reference {

// Writes out, and lse where asked. lse of an fp64 call is still fp32 (params.h).
void attend(const ForwardParams& params);

// Writes d_q, d_k and d_v, recomputing the weights (forward.lse is not read).
void attend_backward(const BackwardParams& params);

void attend_paged(const DecodeParams& params);

}  // namespace loza::reference
