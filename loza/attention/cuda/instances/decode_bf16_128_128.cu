#include "loza/attention/cuda/instances/decode.cuh"

namespace loza::attention::cuda {

DecodeKernel decode_bf16_128_128(int rows) { return decode_kernel<bf16, 128, 128, false>(rows); }

}  // namespace loza::attention::cuda
