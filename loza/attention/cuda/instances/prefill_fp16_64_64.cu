#include "loza/attention/cuda/instances/prefill.cuh"

namespace loza::attention::cuda {

PrefillKernel prefill_fp16_64_64() { return prefill_kernel<fp16, 64, 64>(); }

}  // namespace loza::attention::cuda
