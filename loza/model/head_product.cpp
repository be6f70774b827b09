#include "loza/model/head_product.h"

#include <torch/torch.h>

#include "loza/attention/attention.h"
#include "loza/base/check.h"
#include "loza/model/cpu/head_products.h"

namespace loza {
namespace {

bool is_ours(const at::Tensor& x, const at::Tensor& weight) {
  return x.device().is_cpu() &&
         (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16) && x.stride(2) == 1 &&
         (weight.stride(1) == 1 || weight.stride(2) == 1);
}

TensorView heads_of(const at::Tensor& tensor) {
  return {tensor.data_ptr(), tensor.stride(0), tensor.stride(1)};
}

}  // namespace

at::Tensor head_product(const at::Tensor& x, const at::Tensor& weight) {
  LOZA_CHECK(x.dim() == 3 && weight.dim() == 3 && x.size(1) == weight.size(0) &&
                 x.size(2) == weight.size(1) && x.scalar_type() == weight.scalar_type(),
             c10::str(x.sizes()), c10::str(weight.sizes()));
  if (!is_ours(x, weight)) return at::bmm(x.transpose(0, 1), weight).transpose(0, 1);
  LOZA_CHECK(!at::GradMode::is_enabled() || !(x.requires_grad() || weight.requires_grad()));
  const at::Tensor out = at::empty({x.size(0), x.size(1), weight.size(2)}, x.options());
  const bool rows_are_inputs = weight.stride(2) == 1;
  model_cpu::HeadProducts products;
  products.dtype = attention::dtype_of(x.scalar_type());
  products.num_tokens = x.size(0);
  products.num_heads = x.size(1);
  products.num_inputs = x.size(2);
  products.num_outputs = weight.size(2);
  products.x = heads_of(x);
  products.out = heads_of(out);
  products.matrices = weight.const_data_ptr();
  products.rows =
      rows_are_inputs ? model_cpu::MatrixRows::kInputs : model_cpu::MatrixRows::kOutputs;
  products.matrix_stride = weight.stride(0);
  products.row_stride = weight.stride(rows_are_inputs ? 1 : 2);
  model_cpu::multiply_heads(products);
  return out;
}

}  // namespace loza
