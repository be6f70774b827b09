#include "loza/attention/cuda/instances/prefill.cuh"

namespace loza::attention::cuda {

PrefillKernel prefill_fp16_128_128() { return prefill_kernel<fp16, 128, 128>(); }

}  // namespace loza::attention::cuda
