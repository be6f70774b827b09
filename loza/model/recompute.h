#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace loza {

// fn(x), without keeping what autograd would need of it: only x is kept, and fn runs a second
// time when the gradient comes ("activation checkpointing"). x's gradient passes on; what else
// fn uses gets its gradient in .grad, and has to be a leaf. fn is called again later: it must
// hold what it refers to, and give the same numbers. Without autograd it is fn(x).
at::Tensor recomputed(std::function<at::Tensor(const at::Tensor&)> fn, const at::Tensor& x);

}  // namespace loza
