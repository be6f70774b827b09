#include "loza/attention/cuda/refusal.h"
#include "loza/attention/on_hopper.h"
#include "loza/base/check.h"

// on_hopper.h in a build without the kernels.
namespace loza::attention::on_hopper {
namespace {

cuda::Status not_built() {
  return cuda::failure(cuda::kUnsupported,
                       "the Hopper kernels are not in this build: configure with -DLOZA_CUDA=ON");
}

}  // namespace

cuda::Status check(const Queries&, const at::Tensor&, const at::Tensor&, const BlockPattern&,
                   double) {
  return not_built();
}

cuda::Status check_paged(const Queries&, const PagedKvView&, std::int64_t, std::int64_t,
                         std::int64_t, const BlockPattern&, double) {
  return not_built();
}

std::pair<at::Tensor, at::Tensor> attend_with_lse(const Queries&, const at::Tensor&,
                                                  const at::Tensor&, const Sequences&,
                                                  const BlockPattern&, double) {
  LOZA_CHECK(false, not_built().message);
  return {};
}

at::Tensor attend_paged(const Queries&, const PagedKvView&, std::int64_t, std::int64_t,
                        std::int64_t, const BlockPattern&, double) {
  LOZA_CHECK(false, not_built().message);
  return {};
}

at::Tensor attend_paged_on_device(const Queries&, const PagedKvView&, std::int64_t, std::int64_t,
                                  std::int64_t, const BlockPattern&, double, std::int64_t, bool) {
  LOZA_CHECK(false, not_built().message);
  return {};
}

cuda::Status check_merge(const at::Tensor&) { return not_built(); }

std::pair<at::Tensor, at::Tensor> merge(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                        const at::Tensor&) {
  LOZA_CHECK(false, not_built().message);
  return {};
}

}  // namespace loza::attention::on_hopper
