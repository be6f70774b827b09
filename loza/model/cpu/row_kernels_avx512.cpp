#ifdef __x86_64__

#include "loza/model/cpu/row_loops.h"

namespace loza::model_cpu {

const RowKernels& avx512_row_kernels() { return kRowKernels; }

}  // namespace loza::model_cpu

#endif  // __x86_64__
