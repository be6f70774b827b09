#include "loza/attention/cuda/instances/decode.cuh"

namespace loza::attention::cuda {

DecodeKernel decode_bf16_64_64(int rows) { return decode_kernel<bf16, 64, 64, false>(rows); }

}  // namespace loza::attention::cuda
