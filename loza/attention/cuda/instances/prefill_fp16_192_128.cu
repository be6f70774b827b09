#include "loza/attention/cuda/instances/prefill.cuh"

namespace loza::attention::cuda {

PrefillKernel prefill_fp16_192_128() { return prefill_kernel<fp16, 192, 128>(); }

}  // namespace loza::attention::cuda
