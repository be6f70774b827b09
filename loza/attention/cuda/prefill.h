#pragma once

#include <cuda_runtime_api.h>

#include "loza/attention/cuda/sm90/prefill_args.h"
#include "loza/attention/cuda/status.h"
#include "loza/attention/params.h"

// Prefill on Hopper (sm_90a): attention of many queries over contiguous keys, whole prompts or
// chunks of them.
//
// ForwardParams holds device pointers for q, sink_q, k, v, out and lse, and host pointers for
// q_offsets, k_offsets, kept_prefix and skipped, which are read before prefill() returns.
// prefill() launches one kernel for every 128 sequences on `stream` and returns: no allocation,
// no synchronisation, no workspace.
//
// Results repeat bit for bit. A row's bits depend neither on where its prompt is cut into calls
// nor on what else is in the call; and a row at a position below exact_len() has the same bits
// under every pattern. NaN that no query sees is harmless. A NaN in a key or value reaches all
// queries of the 128 positions that hold it, those before it too.
//
// Thread safety: all functions may be called from any thread.
namespace loza::attention::cuda {

// The last 64 elements of every head's key, if the heads share them: MLA's rotated part.
// ForwardParams::k then holds the elements before them, and its head_stride counts those.
struct SharedKeyTail {
  const void* data = nullptr;  // [S, 64]; null: keys are whole
  std::int64_t token_stride = 0;
};

// ok, or what is missing: kBadArgument where sizes and strides contradict each other,
// kUnsupported where another implementation must serve. These kernels take bf16 and fp16; D/V of
// 192/128, 128/128 or 64/64; rows and heads at multiples of 16 bytes; patterns whose block_size
// is a multiple of 128; a positive scale. What params.h asks of offsets is the caller's to keep.
Status check(const ForwardParams& params, const SharedKeyTail& tail = {});

// The same of dtype, sizes, pattern and scale alone, before there are operands.
Status check_sizes(const ForwardParams& params);

// Launches.
Status prefill(const ForwardParams& params, const SharedKeyTail& tail, cudaStream_t stream);

}  // namespace loza::attention::cuda
