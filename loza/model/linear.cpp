#include "loza/model/linear.h"

#include <torch/torch.h>

#include <algorithm>

#include "loza/attention/attention.h"
#include "loza/base/check.h"
#include "loza/model/cpu/few_rows.h"
#include "loza/model/cpu/int8_weight.h"
#include "loza/model/cpu/some_rows.h"

namespace loza {
namespace {

using model_cpu::Int8Weight, model_cpu::ProductOut, model_cpu::RowsView;

// The whole, or a copy of it through which gradients reach the parts.
at::Tensor joined(const Weights::Stack& stack) {
  const bool trained = at::GradMode::is_enabled() &&
                       std::any_of(stack.parts.begin(), stack.parts.end(),
                                   [](const at::Tensor& part) { return part.requires_grad(); });
  return trained ? at::cat(stack.parts) : stack.whole;
}

bool is_fp32_or_bf16(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
}

RowsView view_of(const at::Tensor& x) {
  return {x.const_data_ptr(), x.size(0), x.size(1), x.stride(0),
          attention::dtype_of(x.scalar_type())};
}

// Copied once while the model is made, so that nobody has to wait for it later.
std::shared_ptr<const Int8Weight> packed(const at::Tensor& weight, HugePageArena& memory) {
  if (weight.is_meta()) return std::make_shared<const Int8Weight>();
  return std::make_shared<const Int8Weight>(view_of(weight.contiguous()), memory);
}

}  // namespace

Linear::Linear(Weights& weights, const std::vector<Part>& parts, std::int64_t in, bool bias,
               Use use)
    : use_(use) {
  std::vector<std::string> weight_names, bias_names;
  std::vector<std::int64_t> sizes;
  for (const Part& part : parts) {
    weight_names.push_back(part.name + ".weight");
    bias_names.push_back(part.name + ".bias");
    sizes.push_back(part.size);
  }
  if (weights.format() == WeightFormat::kInt8 && use != Use::kWeightToo) {
    int8_ = packed(weights.read_stacked(weight_names, sizes, {in}), weights.memory());
  } else {
    weight_ = weights.take_stacked(weight_names, sizes, {in});
  }
  if (bias) {
    bias_ = weights.take_stacked(bias_names, sizes, {});
    if (int8_ != nullptr) wide_bias_ = bias_.whole.to(at::kFloat);
  }
}

Linear::Linear(Weights& weights, const at::Tensor& weight, Use use) : use_(use) {
  if (weights.format() == WeightFormat::kInt8 && use != Use::kWeightToo) {
    int8_ = packed(weight, weights.memory());
  } else {
    weight_ = {weight, {}};
  }
}

std::int64_t Linear::num_outputs() const {
  return int8_ != nullptr ? int8_->num_outputs() : weight_.whole.size(0);
}

std::int64_t Linear::num_terms() const { return use_ == Use::kSensitive ? 2 : 1; }

bool Linear::is_ours(const at::Tensor& x) const {
  if (int8_ != nullptr) return true;
  if (!x.device().is_cpu() || !is_fp32_or_bf16(x) || at::GradMode::is_enabled()) return false;
  return x.size(0) <= model_cpu::kFewRows ||
         (x.size(0) <= model_cpu::kSomeRows && x.scalar_type() == at::kBFloat16 &&
          model_cpu::has_bf16_products());
}

at::Tensor Linear::multiply(const at::Tensor& strided, const at::Tensor& residual,
                            at::ScalarType dtype) const {
  LOZA_CHECK(strided.dim() == 2 && !(at::GradMode::is_enabled() && strided.requires_grad()));
  const at::Tensor x = strided.stride(1) == 1 ? strided : strided.contiguous();
  const at::Tensor out = at::empty({x.size(0), num_outputs()}, x.options().dtype(dtype));
  ProductOut to{out.mutable_data_ptr(), num_outputs(), attention::dtype_of(dtype)};
  at::Tensor bias = wide_bias_;
  if (!bias.defined() && bias_.whole.defined()) bias = bias_.whole.to(at::kFloat);
  if (bias.defined()) to.bias = bias.const_data_ptr<float>();
  if (residual.defined()) {
    LOZA_CHECK(residual.sizes() == out.sizes() && residual.scalar_type() == dtype &&
               residual.stride(1) == 1);
    to.residual = residual.const_data_ptr();
    to.residual_stride = residual.stride(0);
  }
  if (int8_ != nullptr) {
    int8_->multiply(view_of(x), num_terms(), to);
  } else if (x.size(0) <= model_cpu::kFewRows) {
    model_cpu::multiply_few_rows(view_of(x), view_of(weight_.whole), to);
  } else {
    model_cpu::multiply_some_rows(view_of(x), view_of(weight_.whole), to);
  }
  return out;
}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  if (is_ours(x)) return multiply(x, {}, x.scalar_type());
  return at::linear(x, joined(weight_), bias_.whole.defined() ? joined(bias_) : at::Tensor());
}

at::Tensor Linear::grouped(const std::vector<const Linear*>& products,
                           const std::vector<std::int64_t>& counts, const at::Tensor& x) {
  LOZA_CHECK(!products.empty() && products.size() == counts.size(), products.size());
  LOZA_CHECK(x.dim() == 2 && x.is_contiguous());
  std::vector<at::Tensor> groups;
  bool has_few_each = true;
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < products.size(); ++i) {
    LOZA_CHECK(!products[i]->bias_.whole.defined());
    groups.push_back(x.narrow(0, begin, counts[i]));
    begin += counts[i];
    has_few_each =
        has_few_each && products[i]->is_ours(groups[i]) && counts[i] <= model_cpu::kFewRows;
  }
  LOZA_CHECK(begin == x.size(0), begin, x.size(0));

  const Linear& first = *products.front();
  if (first.int8_ == nullptr && !has_few_each) {
    std::vector<at::Tensor> outs;
    for (std::size_t i = 0; i < products.size(); ++i) outs.push_back((*products[i])(groups[i]));
    return at::cat(outs);
  }
  const at::Tensor out = at::empty({x.size(0), first.num_outputs()}, x.options());
  const auto place_of = [](const at::Tensor& rows) {
    return ProductOut{rows.mutable_data_ptr(), rows.size(1),
                      attention::dtype_of(rows.scalar_type())};
  };
  if (first.int8_ != nullptr) {
    std::vector<Int8Weight::Group> of_weights;
    for (std::size_t i = 0; i < products.size(); ++i) {
      of_weights.push_back({products[i]->int8_.get(), counts[i]});
    }
    Int8Weight::multiply(view_of(x), of_weights, first.num_terms(), place_of(out));
    return out;
  }
  std::vector<model_cpu::RowsProduct> few;
  begin = 0;
  for (std::size_t i = 0; i < products.size(); ++i) {
    few.push_back({view_of(groups[i]), view_of(products[i]->weight_.whole),
                   place_of(out.narrow(0, begin, counts[i]))});
    begin += counts[i];
  }
  model_cpu::multiply_few_rows(few);
  return out;
}

at::Tensor Linear::added_to(const at::Tensor& residual, const at::Tensor& x) const {
  return is_ours(x) ? multiply(x, residual, x.scalar_type()) : residual + (*this)(x);
}

at::Tensor Linear::wide(const at::Tensor& x) const {
  if (is_ours(x)) return multiply(x, {}, at::kFloat);
  return (*this)(x).to(at::promote_types(at::kFloat, x.scalar_type()));
}

}  // namespace loza
