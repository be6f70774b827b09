#pragma once

#include "loza/attention/cuda/instances/decode.h"
#include "loza/attention/cuda/sm90/decode_rows.cuh"
#include "loza/attention/cuda/sm90/decode_swap.cuh"

namespace loza::attention::cuda {

template <typename Holds>
constexpr std::uint32_t cluster_bits(const Holds& holds) {
  std::uint32_t bits = 0;
  for (int blocks = 1; blocks <= kMostBlocks; ++blocks)
    bits |= std::uint32_t{holds(blocks)} << blocks;
  return bits;
}

template <typename Shape>
DecodeKernel decode_kernel() {
  return {reinterpret_cast<const void*>(&decode_swap<Shape>),
          Shape::kThreads,
          static_cast<int>(sizeof(SwapShared<Shape>)),
          Shape::kRows,
          Shape::kTilesPerPart,
          cluster_bits([](int blocks) { return blocks <= kMostBlocks; }),
          cluster_bits([](int blocks) { return (blocks & (blocks - 1)) == 0; })};
}

template <typename Element>
DecodeKernel rows_kernel() {
  using Shape = RowsShape<Element>;
  return {reinterpret_cast<const void*>(&decode_rows<Shape>),
          Shape::kThreads,
          static_cast<int>(sizeof(RowsShared<Shape>)),
          Shape::kRows,
          Shape::kTilesPerKeyPart,
          cluster_bits([](int blocks) { return Shape::merges_cluster(blocks); }),
          cluster_bits([](int blocks) { return blocks <= 4 || blocks == 8; })};
}

template <typename Element, int kQkSize, int kVSize, bool kValueInKey>
DecodeKernel decode_kernel(int rows) {
  if (rows <= 8) return decode_kernel<SwapShape<Element, 8, kQkSize, kVSize, kValueInKey>>();
  if (rows <= 16) return decode_kernel<SwapShape<Element, 16, kQkSize, kVSize, kValueInKey>>();
  if (rows <= 24) return decode_kernel<SwapShape<Element, 24, kQkSize, kVSize, kValueInKey>>();
  return decode_kernel<SwapShape<Element, 32, kQkSize, kVSize, kValueInKey>>();
}

}  // namespace loza::attention::cuda
