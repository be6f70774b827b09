#include "loza/base/check.h"
#include "loza/model/on_gpu.h"

// on_gpu.h in a build without the kernels.
namespace loza::on_gpu {

bool takes(const at::Tensor&) { return false; }

at::Tensor rotate(const at::Tensor&, const at::Tensor&, const at::Tensor&, std::int64_t, bool,
                  float) {
  LOZA_CHECK(false, "built without CUDA kernels");
  return {};
}

at::Tensor swiglu(const at::Tensor&) {
  LOZA_CHECK(false, "built without CUDA kernels");
  return {};
}

}  // namespace loza::on_gpu
