#include "loza/attention/cuda/merge.h"

#include <algorithm>

#include "loza/attention/cuda/device/element.cuh"
#include "loza/attention/cuda/refusal.h"

namespace loza::attention::cuda {
namespace {

constexpr int kWarpsPerBlock = 8;
constexpr int kVectorElements = 8;

template <typename Element>
union Vector {
  uint4 bits;
  Element elements[kVectorElements];
};

struct Weights {
  float a, b, lse;
};

// Of the two parts in their merge: their shares of the sum of exponentials.
__device__ Weights weights_of(float lse_a, float lse_b) {
  const float most = fmaxf(lse_a, lse_b);
  if (most == -INFINITY) return {0, 0, -INFINITY};
  const float a = expf(lse_a - most), b = expf(lse_b - most), sum = a + b;
  return {a / sum, b / sum, most + logf(sum)};
}

template <typename Element>
__device__ Vector<Element> load(const TensorView& view, std::int64_t token, std::int64_t head,
                                int column) {
  return {*reinterpret_cast<const uint4*>(static_cast<const Element*>(view.data) +
                                          token * view.token_stride + head * view.head_stride +
                                          column)};
}

// A warp a row. A part of weight 0 adds nothing, whatever it holds.
template <typename Element>
__global__ void __launch_bounds__(32 * kWarpsPerBlock) merge_rows(const MergeParams params) {
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32;
  if (row >= params.num_tokens * params.num_heads) return;
  const std::int64_t token = row / params.num_heads, head = row % params.num_heads;
  const int lane = threadIdx.x % 32;
  const Weights weights = weights_of(params.a.lse[row], params.b.lse[row]);
  __syncwarp();  // lse may be a part's own
  if (lane == 0 && params.lse != nullptr) params.lse[row] = weights.lse;
  for (int column = lane * kVectorElements; column < params.v_size;
       column += 32 * kVectorElements) {
    const auto a = load<Element>(params.a.out, token, head, column);
    const auto b = load<Element>(params.b.out, token, head, column);
    Vector<Element> merged;
#pragma unroll
    for (int i = 0; i < kVectorElements; ++i) {
      const float from_a =
          weights.a == 0 ? 0 : __fmul_rn(weights.a, static_cast<float>(a.elements[i]));
      const float from_b =
          weights.b == 0 ? 0 : __fmul_rn(weights.b, static_cast<float>(b.elements[i]));
      merged.elements[i] = static_cast<Element>(__fadd_rn(from_a, from_b));
    }
    *reinterpret_cast<uint4*>(static_cast<Element*>(params.out.data) +
                              token * params.out.token_stride + head * params.out.head_stride +
                              column) = merged.bits;
  }
}

Status check_merge(const MergeParams& params) {
  if (params.dtype != DType::kBF16 && params.dtype != DType::kF16) {
    return failure(kUnsupported, "cuda merge: dtype must be bf16 or fp16, got %s",
                   dtype_name(params.dtype));
  }
  if (params.num_tokens < 0 || params.num_heads < 1 || params.v_size < 1 ||
      params.v_size % kVectorElements != 0) {
    return failure(kUnsupported,
                   "cuda merge: V must be a multiple of %d, got %lld tokens, %lld heads, V %lld",
                   kVectorElements, number(params.num_tokens), number(params.num_heads),
                   number(params.v_size));
  }
  if (params.a.lse == nullptr || params.b.lse == nullptr) {
    return failure(kBad, "cuda merge: both parts need their lse");
  }
  for (const TensorView& view : {params.a.out, params.b.out, params.out}) {
    if (view.data == nullptr || !is_aligned(view.data) ||
        view.token_stride % kVectorElements != 0 || view.head_stride % kVectorElements != 0) {
      return failure(kUnsupported,
                     "cuda merge: outputs must lie at multiples of 16 bytes, got %p with strides "
                     "%lld, %lld",
                     view.data, number(view.token_stride), number(view.head_stride));
    }
  }
  return {};
}

}  // namespace

Status merge(const MergeParams& params, cudaStream_t stream) {
  if (params.num_tokens == 0) return {};
  const Status status = check_merge(params);
  if (!status.ok()) return status;
  const std::int64_t rows = params.num_tokens * params.num_heads;
  const std::int64_t blocks = (rows + kWarpsPerBlock - 1) / kWarpsPerBlock;
  if (blocks > 0x7FFFFFFF) {
    return failure(kUnsupported, "cuda merge: %lld rows are too many; split the call",
                   number(rows));
  }
  const auto grid = static_cast<unsigned>(blocks);
  if (params.dtype == DType::kBF16) {
    merge_rows<bf16><<<grid, 32 * kWarpsPerBlock, 0, stream>>>(params);
  } else {
    merge_rows<fp16><<<grid, 32 * kWarpsPerBlock, 0, stream>>>(params);
  }
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    return failure(StatusCode::kCudaError, "cuda merge: %s: %s", cudaGetErrorName(error),
                   cudaGetErrorString(error));
  }
  return {};
}

}  // namespace loza::attention::cuda
