// NCCL: where libtorch has CUDA and nccl.h is found.
#include "loza/base/error.h"
#include "loza/parallel/backends.h"

#ifdef LOZA_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

namespace loza::backend {

#ifdef LOZA_NCCL

c10::intrusive_ptr<c10d::Backend> make_nccl(const Place& place) {
  const auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = place.timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(place.store, place.rank, place.size, options);
}

#else

c10::intrusive_ptr<c10d::Backend> make_nccl(const Place&) {
  throw_usage("several processes on CUDA devices", "a build with NCCL", "one without it",
              "build with a libtorch for CUDA and -DNCCL_INCLUDE_DIR=<the folder of nccl.h>");
}

#endif

}  // namespace loza::backend
