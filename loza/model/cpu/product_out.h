#pragma once

#include <cstdint>

#include "loza/base/dtype.h"

namespace loza::model_cpu {

// Where products go: out[m][n] = product + bias[n] + residual[m][n], rounded once to dtype.
struct ProductOut {
  void* data = nullptr;            // [M, N]
  std::int64_t stride = 0;         // elements between rows
  DType dtype = DType::kF32;       // fp32 or bf16
  const float* bias = nullptr;     // [N] or null
  const void* residual = nullptr;  // [M, N] of dtype or null; may be data itself
  std::int64_t residual_stride = 0;
};

}  // namespace loza::model_cpu
