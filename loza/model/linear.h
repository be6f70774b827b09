#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "loza/model/weights.h"

namespace loza {

namespace model_cpu {
class Int8Weight;
}

// Several projections of one input that the checkpoint keeps apart, run as one product:
// x [T, in] -> [T, sum of the parts' outputs], side by side.
//
// What runs follows from the weight. In int8: cpu/int8_weight.h. In the compute dtype: libtorch,
// which is at the processor's limit for many rows and carries gradients; on the CPU, without
// gradients, cpu/few_rows.h and cpu/some_rows.h.
class Linear {
 public:
  struct Part {
    std::string name;       // "model.layers.0.self_attn.q_proj", without .weight
    std::int64_t size = 0;  // outputs
  };
  enum class Use {
    kProduct,
    kSensitive,  // a product whose rounding reaches the logits most; int8 takes x in two terms
    kWeightToo,  // stays in its own dtype: the model asks for weight() itself, or for all its
                 // digits
  };

  Linear() = default;
  Linear(Weights& weights, const std::vector<Part>& parts, std::int64_t in, bool bias,
         Use use = Use::kProduct);
  // Of a weight [out, in] that the model has already; int8 takes a copy, but for kWeightToo.
  Linear(Weights& weights, const at::Tensor& weight, Use use);

  at::Tensor operator()(const at::Tensor& x) const;
  // residual [T, out] + (*this)(x).
  at::Tensor added_to(const at::Tensor& residual, const at::Tensor& x) const;
  // Rows that meet different products of one shape, group after group: the first counts[0] rows of
  // x [T, in] meet products[0], and so on. REQUIRES: no biases.
  static at::Tensor grouped(const std::vector<const Linear*>& products,
                            const std::vector<std::int64_t>& counts, const at::Tensor& x);
  // (*this)(x) in fp32 (fp64 of fp64), rounded only where libtorch multiplies.
  at::Tensor wide(const at::Tensor& x) const;

  const at::Tensor& weight() const { return weight_.whole; }  // [out, in]. REQUIRES: kWeightToo

 private:
  std::int64_t num_outputs() const;
  std::int64_t num_terms() const;  // of an int8 product's rows
  // Whether loops of our own multiply such an input.
  bool is_ours(const at::Tensor& x) const;
  at::Tensor multiply(const at::Tensor& x, const at::Tensor& residual, at::ScalarType dtype) const;

  Use use_ = Use::kProduct;
  Weights::Stack weight_, bias_;
  at::Tensor wide_bias_;  // [out] fp32, for our own loops
  std::shared_ptr<const model_cpu::Int8Weight> int8_;
};

}  // namespace loza
