#include "loza/model/on_gpu.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "loza/attention/attention.h"
#include "loza/base/check.h"
#include "loza/model/cuda/row_kernels.h"

namespace loza::on_gpu {
namespace {

void expect_ok(cudaError_t error) {
  LOZA_CHECK(error == cudaSuccess, cudaGetErrorName(error), cudaGetErrorString(error));
}

}  // namespace

bool takes(const at::Tensor& x) {
  if (!x.is_cuda() || (x.size(-1) > 1 && x.stride(-1) != 1)) return false;
  const at::ScalarType dtype = x.scalar_type();
  if (dtype != at::kFloat && dtype != at::kBFloat16 && dtype != at::kHalf) return false;
  const c10::cuda::CUDAGuard guard(x.device());
  return model_cuda::is_available();
}

at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                  std::int64_t prefix, bool interleaved, float sin_sign) {
  LOZA_CHECK(cos.is_contiguous() && sin.is_contiguous() && cos.scalar_type() == at::kFloat &&
                 sin.scalar_type() == at::kFloat && cos.size(0) == x.size(0),
             c10::str(cos.sizes()), c10::str(x.sizes()));
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor out = at::empty(x.sizes(), x.options());
  model_cuda::Rotation rotation;
  rotation.dtype = attention::dtype_of(x.scalar_type());
  rotation.num_tokens = x.size(0);
  rotation.num_heads = x.size(1);
  rotation.prefix = prefix;
  rotation.half = cos.size(1);
  rotation.x = x.const_data_ptr();
  rotation.x_token_stride = x.stride(0);
  rotation.x_head_stride = x.stride(1);
  rotation.out = out.mutable_data_ptr();
  rotation.cos = cos.const_data_ptr<float>();
  rotation.sin = sin.const_data_ptr<float>();
  rotation.sin_sign = sin_sign;
  rotation.interleaved = interleaved;
  expect_ok(model_cuda::rotate(rotation, c10::cuda::getCurrentCUDAStream()));
  return out;
}

at::Tensor swiglu(const at::Tensor& gate_up) {
  LOZA_CHECK(gate_up.dim() == 2 && gate_up.size(1) % 2 == 0, c10::str(gate_up.sizes()));
  const c10::cuda::CUDAGuard guard(gate_up.device());
  const at::Tensor out = at::empty({gate_up.size(0), gate_up.size(1) / 2}, gate_up.options());
  model_cuda::Swiglu swiglu;
  swiglu.dtype = attention::dtype_of(gate_up.scalar_type());
  swiglu.num_tokens = gate_up.size(0);
  swiglu.size = out.size(1);
  swiglu.gate_up = gate_up.const_data_ptr();
  swiglu.token_stride = gate_up.stride(0);
  swiglu.out = out.mutable_data_ptr();
  expect_ok(model_cuda::swiglu(swiglu, c10::cuda::getCurrentCUDAStream()));
  return out;
}

}  // namespace loza::on_gpu
