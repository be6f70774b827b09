#include "loza/model/cuda/row_kernels.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace loza::model_cuda {
namespace {

constexpr int kWarpsPerBlock = 8;
constexpr int kThreads = 32 * kWarpsPerBlock;

// A warp a head of a token, a lane a pair.
template <typename Element>
__global__ void __launch_bounds__(kThreads) rotate_heads(const Rotation args) {
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32;
  if (row >= args.num_tokens * args.num_heads) return;
  const std::int64_t token = row / args.num_heads, head = row - token * args.num_heads;
  const int lane = threadIdx.x % 32;
  const auto prefix = static_cast<int>(args.prefix), half = static_cast<int>(args.half);
  const Element* x =
      static_cast<const Element*>(args.x) + token * args.x_token_stride + head * args.x_head_stride;
  Element* out = static_cast<Element*>(args.out) + row * (prefix + 2 * half);
  for (int i = lane; i < prefix; i += 32) out[i] = x[i];
  x += prefix;
  out += prefix;
  const int step = args.interleaved ? 2 : 1, distance = args.interleaved ? 1 : half;
  for (int i = lane; i < half; i += 32) {
    const float a = static_cast<float>(x[i * step]);
    const float b = static_cast<float>(x[i * step + distance]);
    const float cos = args.cos[token * half + i], sin = args.sin_sign * args.sin[token * half + i];
    // Each product rounded, as torch's operations round it.
    out[i * step] = static_cast<Element>(__fsub_rn(__fmul_rn(a, cos), __fmul_rn(b, sin)));
    out[i * step + distance] =
        static_cast<Element>(__fadd_rn(__fmul_rn(b, cos), __fmul_rn(a, sin)));
  }
}

// Blocks [tokens, parts of a row].
template <typename Element>
__global__ void __launch_bounds__(kThreads) swiglu_rows(const Swiglu args) {
  const std::int64_t token = blockIdx.x, column = blockIdx.y * kThreads + threadIdx.x;
  if (column >= args.size) return;
  const Element* gate =
      static_cast<const Element*>(args.gate_up) + token * args.token_stride + column;
  const auto x = static_cast<float>(gate[0]);
  const auto silu = static_cast<float>(static_cast<Element>(x / (1.0f + expf(-x))));
  static_cast<Element*>(args.out)[token * args.size + column] =
      static_cast<Element>(silu * static_cast<float>(gate[args.size]));
}

unsigned blocks_for(std::int64_t count, int per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

template <typename Launch>
cudaError_t by_dtype(DType dtype, const Launch& launch) {
  switch (dtype) {
    case DType::kF32:
      launch(float{});
      break;
    case DType::kBF16:
      launch(__nv_bfloat16{});
      break;
    case DType::kF16:
      launch(__half{});
      break;
    default:
      return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

}  // namespace

bool is_available() {
  int device = 0, major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         major == 9;
}

cudaError_t rotate(const Rotation& rotation, cudaStream_t stream) {
  const std::int64_t num_rows = rotation.num_tokens * rotation.num_heads;
  if (num_rows == 0) return cudaSuccess;
  return by_dtype(rotation.dtype, [&](auto element) {
    rotate_heads<decltype(element)>
        <<<blocks_for(num_rows, kWarpsPerBlock), kThreads, 0, stream>>>(rotation);
  });
}

cudaError_t swiglu(const Swiglu& swiglu, cudaStream_t stream) {
  if (swiglu.num_tokens == 0 || swiglu.size == 0) return cudaSuccess;
  const dim3 blocks(static_cast<unsigned>(swiglu.num_tokens), blocks_for(swiglu.size, kThreads));
  return by_dtype(swiglu.dtype, [&](auto element) {
    swiglu_rows<decltype(element)><<<blocks, kThreads, 0, stream>>>(swiglu);
  });
}

}  // namespace loza::model_cuda
