#include "loza/attention/cuda/instances/prefill.cuh"

namespace loza::attention::cuda {

PrefillKernel prefill_bf16_192_128() { return prefill_kernel<bf16, 192, 128>(); }

}  // namespace loza::attention::cuda
