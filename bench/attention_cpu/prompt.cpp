#include "bench/attention_cpu/prompt.h"

#include <ATen/ATen.h>

#include <optional>

#include "loza/attention/attention.h"
#include "loza/base/check.h"

namespace loza::bench {

Prompt::Prompt(const Sizes& of, std::int64_t length, at::ScalarType dtype)
    : sizes(of),
      len(length),
      q(at::randn({length, of.heads, of.qk_size}).to(dtype)),
      k(at::randn({length, of.key_heads, of.qk_size}).to(dtype)),
      v(at::randn({length, of.key_heads, of.v_size}).to(dtype)) {}

at::Tensor Prompt::ours(const BlockPattern& pattern) const {
  return attention::attend(q, k, v, attention::Sequences::whole({0, len}), pattern, sizes.scale());
}

at::Tensor Prompt::torch(const at::Tensor& mask) const {
  const auto heads_first = [](const at::Tensor& x) { return x.transpose(0, 1).unsqueeze(0); };
  return at::scaled_dot_product_attention(
      heads_first(q), heads_first(k), heads_first(v),
      mask.defined() ? std::optional<at::Tensor>(mask) : std::nullopt, 0.0, !mask.defined(),
      sizes.scale());
}

Prompt Prompt::with_padded_values() const {
  Prompt padded = *this;
  padded.v = at::constant_pad_nd(v, {0, sizes.qk_size - sizes.v_size});
  return padded;
}

Prompt Prompt::in_fp64() const {
  Prompt exact = *this;
  for (at::Tensor* x : {&exact.q, &exact.k, &exact.v}) *x = x->detach().to(at::kDouble);
  return exact;
}

void Prompt::ask_for_gradients() {
  for (at::Tensor* x : {&q, &k, &v}) x->requires_grad_(true);
}

at::Tensor boolean_mask(const BlockPattern& pattern, std::int64_t len) {
  const at::Tensor pos = at::arange(len);
  const at::Tensor block = at::floor_divide(pos, pattern.block_size);
  const at::Tensor query_block = block.unsqueeze(1), key_block = block.unsqueeze(0);
  return pos.unsqueeze(0)
      .le(pos.unsqueeze(1))
      .logical_and(key_block.lt(pattern.sink_blocks)
                       .logical_or(key_block.ge(query_block - pattern.recent_blocks + 1)));
}

void expect_close(const std::string& what, const at::Tensor& ours, const at::Tensor& exact,
                  at::ScalarType dtype) {
  const double largest = exact.abs().max().item<double>();
  const double error = (ours.to(at::kDouble) - exact).abs().max().item<double>() / largest;
  LOZA_CHECK(error <= (dtype == at::kFloat ? 2e-5 : 2e-2), what, error);
}

}  // namespace loza::bench
