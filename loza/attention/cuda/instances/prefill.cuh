#pragma once

#include "loza/attention/cuda/instances/prefill.h"
#include "loza/attention/cuda/sm90/prefill.cuh"

namespace loza::attention::cuda {

template <typename Element, int kQkSize, int kVSize>
PrefillKernel prefill_kernel() {
  using Shape = PrefillShape<Element, kQkSize, kVSize>;
  return {reinterpret_cast<const void*>(&prefill<Shape>), Shape::kThreads,
          static_cast<int>(sizeof(PrefillShared<Shape>))};
}

}  // namespace loza::attention::cuda
