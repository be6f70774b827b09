#include "loza/model/cpu/row_loops.h"

namespace loza::model_cpu {

const RowKernels& portable_row_kernels() { return kRowKernels; }

}  // namespace loza::model_cpu
