#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "loza/attention/attention.h"

namespace loza::attention {

// What a call is beside its tensors, kept from an autograd node's forward to its backward pass.
struct SavedCall {
  Sequences sequences;
  BlockPattern pattern;
  double scale = 1;

  // REQUIRES: no key was left out (Sequences::skipped).
  void save(torch::autograd::AutogradContext& context) const;
  static SavedCall of(torch::autograd::AutogradContext& context);
};

// As autograd's nodes take tensors that may be absent.
inline std::optional<at::Tensor> optional_tensor(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

}  // namespace loza::attention
