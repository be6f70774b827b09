#pragma once

#include "loza/attention/params.h"

// Attention on the CPU: blocked, vectorised, parallel (base/parallel_for.h). fp32 and bf16,
// accumulated in fp32, any size and any number of heads. docs/attention.md explains how.
//
// Equal bits: results do not depend on the number of threads, on the other sequences of a
// batch, on how a prompt is cut into chunks, or on whether a sequence that a streaming pattern
// sees whole is called full or streaming. They do depend on the instruction set
// (cpu/instruction_set.h).
//
// Safe to call from several threads at once. Throw std::logic_error (LOZA_CHECK) for
// parameters that contradict each other.
namespace loza::cpu {

// Writes out, and lse where asked.
void attend(const ForwardParams& params);

// Writes d_q, d_k and d_v; any of them may have null data: then it is left out. Reads
// forward.out and forward.lse. A number that is not finite in d_out may reach gradients of keys
// that its row does not see.
void attend_backward(const BackwardParams& params);

// Writes out, and lse where asked.
void attend_paged(const DecodeParams& params);

}  // namespace loza::cpu
