#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "loza/attention/cuda/status.h"
#include "loza/attention/params.h"

// Decode on Hopper (sm_90a): attention of a few new tokens a sequence over paged keys.
//
//   check -> plan_decode -> decode_workspace_bytes -> decode
//
// DecodeParams holds device pointers throughout: q, pages, page_table, lengths, out, lse.
// decode() launches one kernel on `stream` and returns: no allocation, no synchronisation,
// nothing read from the device, so it can be captured in a CUDA graph, whose replays read
// the lengths and tables of that moment.
//
// Thread safety: all functions may be called from any thread; calls in flight on different
// streams need different workspaces.
namespace loza::attention::cuda {

// How the keys of one sequence are divided. Splits of a sequence are merged in a fixed
// order, so results repeat bit for bit under the same plan, whatever else is in the batch.
// A sequence of at most exact_len() tokens gives the same bits under every pattern, if the
// plan is the same.
struct DecodePlan {
  int cluster_size = 1;  // thread blocks that merge through each other's shared memory: see
                         // merges_cluster()
  int num_clusters = 1;  // clusters a sequence, merged through the workspace: 1..64
};

// ok, or what is missing: kBadArgument where sizes and strides contradict each other,
// kUnsupported where another implementation must serve. These kernels take bf16 and fp16;
// pages of 64 tokens; D/V of 576/512 with the value in the key (v_offset 0, one key head),
// 128/128 or 64/64; pages, rows and heads at multiples of 16 bytes; q_len 1..8; patterns
// whose block_size is a multiple of 64.
Status check(const DecodeParams& params);

// The same of sizes, features and pattern alone, before there are queries and outputs.
Status check_sizes(const DecodeParams& params);

// Whether a plan may have clusters of that size: 1..16, with more than 32 query rows 1..5 and 8.
// REQUIRES: check(params).ok().
bool merges_cluster(const DecodeParams& params, int cluster_size);

// A good plan for the current device. `max_length` bounds the lengths (a graph replays one
// plan while they grow). REQUIRES: check(params).ok().
DecodePlan plan_decode(const DecodeParams& params, std::int64_t max_length);

// Bytes of device memory that decode() needs under `plan`; 0 with one cluster a sequence.
std::size_t decode_workspace_bytes(const DecodeParams& params, const DecodePlan& plan);

// What the caller promises of the kernel that precedes the call on the stream. decode() starts
// while that kernel drains; reading what it does not write before it ends hides latency.
enum class Inputs {
  kFromPreviousKernel,  // nothing: any input may be its output
  kStablePrefix,        // lengths, page_table and all pages but those that hold the q_len new
                        // tokens were complete before it began
};

// Launches. `workspace` must be zero before its first use and is ready for the next call on
// the same stream after each; 256-byte aligned; may be null if it needs no bytes.
Status decode(const DecodeParams& params, const DecodePlan& plan, void* workspace,
              std::size_t workspace_bytes, cudaStream_t stream,
              Inputs inputs = Inputs::kFromPreviousKernel);

}  // namespace loza::attention::cuda
