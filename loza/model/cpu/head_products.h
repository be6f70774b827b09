#pragma once

#include <cstdint>

#include "loza/attention/params.h"
#include "loza/base/dtype.h"

// Products of each head's vectors with a matrix of the head's own, for few tokens: the time is that
// of reading the matrices, which lie as a checkpoint has them.
namespace loza::model_cpu {

// Whether a row of a head's matrix is what makes one output, [H, N, K], or what one input adds to
// every output, [H, K, N].
enum class MatrixRows { kOutputs, kInputs };

// All of one dtype, fp32 or bf16, with contiguous rows.
struct HeadProducts {
  DType dtype = DType::kF32;
  std::int64_t num_tokens = 0, num_heads = 0;
  std::int64_t num_inputs = 0, num_outputs = 0;  // K, N
  TensorView x;                                  // [T, H, K]
  TensorView out;                                // [T, H, N]
  const void* matrices = nullptr;
  MatrixRows rows = MatrixRows::kOutputs;
  std::int64_t matrix_stride = 0, row_stride = 0;  // elements
};

// out[t][h] = the head's matrix times x[t][h], accumulated in fp32. On several threads; a token's
// numbers depend on neither the other tokens nor the threads.
void multiply_heads(const HeadProducts& products);

}  // namespace loza::model_cpu
