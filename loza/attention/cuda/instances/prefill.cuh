#pragma once

#include "loza/attention/cuda/instances/prefill.h"
#include "loza/attention/cuda/sm90/prefill.cuh"

namespace loza::attention::cuda {

template <typename Shape>
PrefillKernel prefill_kernel() {
  return {reinterpret_cast<const void*>(&prefill<Shape>), Shape::kThreads,
          static_cast<int>(sizeof(PrefillShared<Shape>))};
}

template <typename Element, int kQkSize, int kVSize>
PrefillKernel prefill_kernel(PrefillOrder order) {
  switch (order) {
    case PrefillOrder::kInOrder:
      return prefill_kernel<PrefillShape<Element, kQkSize, kVSize, PrefillOrder::kInOrder>>();
    case PrefillOrder::kOverlap:
      return prefill_kernel<PrefillShape<Element, kQkSize, kVSize, PrefillOrder::kOverlap>>();
    default:
      return prefill_kernel<PrefillShape<Element, kQkSize, kVSize, PrefillOrder::kTurns>>();
  }
}

}  // namespace loza::attention::cuda
