#pragma once

#include "loza/attention/cuda/instances/decode.h"
#include "loza/attention/cuda/sm90/decode_rows.cuh"
#include "loza/attention/cuda/sm90/decode_swap.cuh"

namespace loza::attention::cuda {

template <typename Shape>
DecodeKernel decode_kernel() {
  return {reinterpret_cast<const void*>(&decode_swap<Shape>),
          Shape::kThreads,
          static_cast<int>(sizeof(SwapShared<Shape>)),
          Shape::kRows,
          Shape::kTilesPerPart,
          kMostBlocks};
}

template <typename Element>
DecodeKernel rows_kernel() {
  using Shape = RowsShape<Element>;
  return {reinterpret_cast<const void*>(&decode_rows<Shape>),
          Shape::kThreads,
          static_cast<int>(sizeof(RowsShared<Shape>)),
          Shape::kRows,
          Shape::kTilesPerKeyPart,
          Shape::kMostCluster};
}

template <typename Element, int kQkSize, int kVSize, bool kValueInKey>
DecodeKernel decode_kernel(int rows) {
  if (rows <= 8) return decode_kernel<SwapShape<Element, 8, kQkSize, kVSize, kValueInKey>>();
  if (rows <= 16) return decode_kernel<SwapShape<Element, 16, kQkSize, kVSize, kValueInKey>>();
  if (rows <= 24) return decode_kernel<SwapShape<Element, 24, kQkSize, kVSize, kValueInKey>>();
  return decode_kernel<SwapShape<Element, 32, kQkSize, kVSize, kValueInKey>>();
}

}  // namespace loza::attention::cuda
