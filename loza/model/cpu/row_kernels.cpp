#include "loza/model/cpu/row_kernels.h"

#include "loza/attention/cpu/instruction_set.h"

namespace loza::model_cpu {

const RowKernels& row_kernels() {
  switch (cpu::instruction_set()) {
#ifdef __x86_64__
    case cpu::InstructionSet::kAvx512Bf16:
    case cpu::InstructionSet::kAvx512:
      return avx512_row_kernels();
    case cpu::InstructionSet::kAvx2:
      return avx2_row_kernels();
#endif
    default:
      return portable_row_kernels();
  }
}

}  // namespace loza::model_cpu
