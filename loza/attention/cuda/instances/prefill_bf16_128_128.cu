#include "loza/attention/cuda/instances/prefill.cuh"

namespace loza::attention::cuda {

PrefillKernel prefill_bf16_128_128() { return prefill_kernel<bf16, 128, 128>(); }

}  // namespace loza::attention::cuda
