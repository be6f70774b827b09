#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "loza/model/weights.h"

namespace loza {

// Several projections of one input that the checkpoint keeps apart, run as one matmul:
// x [T, in] -> [T, sum of the parts' outputs], side by side.
class Linear {
 public:
  struct Part {
    std::string name;       // "model.layers.0.self_attn.q_proj", without .weight
    std::int64_t size = 0;  // outputs
  };

  Linear() = default;
  Linear(Weights& weights, const std::vector<Part>& parts, std::int64_t in, bool bias);

  at::Tensor operator()(const at::Tensor& x) const;
  const at::Tensor& weight() const { return weight_.whole; }  // [out, in]

 private:
  Weights::Stack weight_, bias_;
};

}  // namespace loza
