#pragma once

#include <ATen/core/Tensor.h>

// What this machine can do, measured: the floors of attention's times.
namespace loza::bench {

// With all threads together.
struct DTypeRates {
  double fma_flops = 0;     // flop/s of multiply-adds whose operands are in registers
  double matmul_flops = 0;  // flop/s of libtorch's matrix product on attention's two products
};

struct MachineRates {
  DTypeRates bf16, fp32;
  double read_bytes = 0;  // bytes/s of reading memory that no cache holds

  const DTypeRates& of(at::ScalarType dtype) const { return dtype == at::kFloat ? fp32 : bf16; }
};

// Takes a few seconds. bf16's multiply-adds are those of the kernels in use: bf16 pairs where the
// instruction set has them, else fp32.
MachineRates measure_rates();

}  // namespace loza::bench
