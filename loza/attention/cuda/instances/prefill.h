#pragma once

#include "loza/attention/cuda/sm90/prefill_args.h"

// The compiled prefill kernels. One file an element type and pair of sizes.
namespace loza::attention::cuda {

struct PrefillKernel {
  const void* function = nullptr;  // __global__ void(PrefillArgs)
  int num_threads = 0, shared_bytes = 0;
};

PrefillKernel prefill_bf16_192_128();
PrefillKernel prefill_bf16_128_128();
PrefillKernel prefill_bf16_64_64();
PrefillKernel prefill_fp16_192_128();
PrefillKernel prefill_fp16_128_128();
PrefillKernel prefill_fp16_64_64();

}  // namespace loza::attention::cuda
