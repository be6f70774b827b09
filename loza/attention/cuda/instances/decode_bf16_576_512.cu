#include "loza/attention/cuda/instances/decode.cuh"

namespace loza::attention::cuda {

DecodeKernel decode_bf16_576_512(int rows) {
  return rows > kMostSwapRows ? rows_kernel<bf16>() : decode_kernel<bf16, 576, 512, true>(rows);
}

}  // namespace loza::attention::cuda
