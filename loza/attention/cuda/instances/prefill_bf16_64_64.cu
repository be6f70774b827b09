#include "loza/attention/cuda/instances/prefill.cuh"

namespace loza::attention::cuda {

PrefillKernel prefill_bf16_64_64() { return prefill_kernel<bf16, 64, 64>(); }

}  // namespace loza::attention::cuda
