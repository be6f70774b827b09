#pragma once

#include <ATen/core/Tensor.h>

#include "loza/model/config.h"

namespace loza {

// The angles of a batch's tokens: cos and sin [T, P/2] fp32, the attention factor included.
struct Rotation {
  at::Tensor cos, sin;
  bool interleaved = false;  // pairs (2i, 2i+1); else (i, i + P/2)
};

// Inverse frequencies with a model's scaling, rounded as transformers rounds: frequencies and
// angles in fp32. (At position 1,048,575 such an angle is off by up to 0.02 rad; checkpoints
// were trained with it.)
class Rope {
 public:
  Rope(const RopeConfig& config, at::Device device);

  const at::Tensor& inv_freq() const { return inv_freq_; }  // [P/2] fp32
  // cos and sin are multiplied by it (YaRN), so that q.k grows by its square.
  double attention_factor() const { return attention_factor_; }

  Rotation at(const at::Tensor& positions) const;  // positions [T] int64

 private:
  at::Tensor inv_freq_;
  double attention_factor_;
  bool interleaved_;
};

}  // namespace loza
