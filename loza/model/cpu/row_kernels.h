#pragma once

#include <cstdint>

#include "loza/base/dtype.h"
#include "loza/model/cpu/product_out.h"

// The model's elementwise steps on the CPU, one row at a time: each reads its operands once and
// writes once, where a chain of tensor operations would go over memory for every link.
// Rows are fp32 or bf16 (`dtype`), contiguous; arithmetic is fp32, rounded once at the end.
namespace loza::model_cpu {

// A row of P/2 angles turns P elements; see rotate() in elementwise.h.
struct RotateRow {
  const void* x = nullptr;     // [prefix + 2 * half]
  void* out = nullptr;         // likewise
  const float* cos = nullptr;  // [half]
  const float* sin = nullptr;  // [half]
  std::int64_t prefix = 0, half = 0;
  float sin_sign = 1;  // -1: the inverse rotation, which is also the gradient's
  bool interleaved = false;
};

// Rows as RowKernels::arrange leaves them, one behind the other: [count][size].
struct WideRows {
  const float* data = nullptr;
  std::int64_t count = 0, size = 0;
};

// Rows x [count, size] times the rows of a weight [size, num_columns]: out [count, num_columns].
// The strides are elements between rows.
struct ColumnsProduct {
  const void* x = nullptr;
  const void* weight = nullptr;
  void* out = nullptr;
  std::int64_t x_stride = 0, weight_stride = 0, out_stride = 0;
  std::int64_t count = 0, size = 0, num_columns = 0;
};

// Rows that multiply_rows takes at most.
inline constexpr std::int64_t kFewRows = 8;

struct RowKernels {
  // out = x / sqrt(mean(x^2) + eps) * weight, [size].
  void (*rms_norm)(const void* x, const void* weight, float eps, std::int64_t size, DType dtype,
                   void* out);
  void (*rms_norm_backward)(const void* d_out, const void* x, const void* weight, float eps,
                            std::int64_t size, DType dtype, void* d_x);
  // out = silu(gate) * up, [size].
  void (*swiglu)(const void* gate, const void* up, std::int64_t size, DType dtype, void* out);
  void (*swiglu_backward)(const void* d_out, const void* gate, const void* up, std::int64_t size,
                          DType dtype, void* d_gate, void* d_up);
  void (*rotate)(const RotateRow& row, DType dtype);
  // x [size] in fp32, in the order in which multiply_rows reads it beside a weight of `dtype`.
  void (*arrange)(const void* x, std::int64_t size, DType dtype, float* wide);
  // x times rows [begin, end) of a weight, of which `weight` is the first and `stride` elements lie
  // between two; x has at most kFewRows rows.
  void (*multiply_rows)(const WideRows& x, const void* weight, std::int64_t stride, DType dtype,
                        std::int64_t begin, std::int64_t end, const ProductOut& out);
  // All of `dtype`; sums [count, num_columns] is the kernel's own.
  void (*multiply_columns)(const ColumnsProduct& product, DType dtype, float* sums);
};

// Those of the instruction set that the attention kernels use, too
// (attention/cpu/instruction_set.h).
const RowKernels& row_kernels();

// What the instruction sets' files define.
const RowKernels& portable_row_kernels();
const RowKernels& avx2_row_kernels();
const RowKernels& avx512_row_kernels();

}  // namespace loza::model_cpu
