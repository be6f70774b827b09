#pragma once

#include "loza/attention/params.h"

// The definition, token by token: any size, inputs of any dtype, computed in fp64. Slow and
// obvious. The kernels are tested against it, and fp64 and fp16 tensors are computed by it.
namespace loza::reference {

// Writes out, and lse where asked.
void attend(const ForwardParams& params);

// Writes d_q, d_k and d_v. The weights are computed anew; forward.out and lse are not read.
void attend_backward(const BackwardParams& params);

// Writes out, and lse where asked.
void attend_paged(const DecodeParams& params);

}  // namespace loza::reference
