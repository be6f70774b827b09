#include "loza/model/cpu/int8_kernels.h"

#include "loza/attention/cpu/instruction_set.h"

namespace loza::model_cpu {

const Int8Kernels& int8_kernels() {
  switch (cpu::instruction_set()) {
#ifdef __x86_64__
    case cpu::InstructionSet::kAvx512Bf16:
    case cpu::InstructionSet::kAvx512:
      return __builtin_cpu_supports("avx512vnni") ? avx512_vnni_int8_kernels()
                                                  : avx2_int8_kernels();
    case cpu::InstructionSet::kAvx2:
      return avx2_int8_kernels();
#endif
    default:
      return portable_int8_kernels();
  }
}

}  // namespace loza::model_cpu
