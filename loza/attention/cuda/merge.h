#pragma once

#include <cuda_runtime_api.h>

#include "loza/attention/cuda/status.h"
#include "loza/attention/params.h"

// The merge of two attentions of the same queries over different keys: a prompt's prefix and its
// chunk, parts of a sequence on several devices.
namespace loza::attention::cuda {

// Strides in elements; device pointers. `out` and `lse` may be one part's own. A part without
// keys has lse -inf, and its out is not looked at; two of them give 0 and -inf.
struct MergeParams {
  DType dtype = DType::kBF16;  // bf16 or fp16, of the outputs
  std::int64_t num_tokens = 0, num_heads = 0, v_size = 0;
  struct Part {
    TensorView out;              // [T, H, V]
    const float* lse = nullptr;  // [T, H]
  };
  Part a, b;
  TensorView out;        // [T, H, V]
  float* lse = nullptr;  // [T, H], or null
};

// Launches one kernel on `stream`: no allocation, no synchronisation. The merge of a and b has
// the bits of the merge of b and a. V is a multiple of 8, rows lie at multiples of 16 bytes.
Status merge(const MergeParams& params, cudaStream_t stream);

}  // namespace loza::attention::cuda
