#include "loza/attention/cuda/instances/decode.cuh"

namespace loza::attention::cuda {

DecodeKernel decode_fp16_576_512(int rows) {
  return rows > kMostSwapRows ? rows_kernel<fp16>() : decode_kernel<fp16, 576, 512, true>(rows);
}

}  // namespace loza::attention::cuda
