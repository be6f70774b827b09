#include "loza/attention/cpu/tile.h"

#include "loza/attention/cpu/instruction_set.h"
#include "loza/base/check.h"

namespace loza::cpu {

const TileKernels& tile_kernels(DType dtype) {
  LOZA_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, dtype_name(dtype));
  switch (instruction_set()) {
#ifdef __x86_64__
    case InstructionSet::kAvx512Bf16:
      return dtype == DType::kBF16 ? avx512_bf16_tile_kernels() : avx512_tile_kernels();
    case InstructionSet::kAvx512:
      return avx512_tile_kernels();
    case InstructionSet::kAvx2:
      return avx2_tile_kernels();
#endif
    default:
      return portable_tile_kernels();
  }
}

}  // namespace loza::cpu
