#pragma once

#include <cstdint>

#include "loza/attention/params.h"
#include "tests/attention/kernels/forward_case.h"

namespace loza::testing {

// A forward case with the gradient that comes in and the three that go out.
struct BackwardCase : ForwardCase {
  Operand d_out, d_q, d_k, d_v;

  BackwardCase(const Shape& of, std::uint64_t seed)
      : ForwardCase(of, seed),
        d_out(of.dtype, q.tokens(), of.heads, of.v_size, of.layout),
        d_q(of.dtype, q.tokens(), of.heads, of.qk_size, of.layout),
        d_k(of.dtype, k.tokens(), of.key_heads, of.qk_size, of.layout),
        d_v(of.dtype, k.tokens(), of.key_heads, of.v_size, of.layout) {
    Random random(seed + 1);
    d_out.fill(random);
  }

  BackwardCase in_fp64() const {
    Shape exact = shape;
    exact.dtype = DType::kF64;
    BackwardCase c(exact, 0);
    c.q.copy_from(q);
    c.k.copy_from(k);
    c.v.copy_from(v);
    c.d_out.copy_from(d_out);
    return c;
  }

  void poison_gradients() {
    for (Operand* operand : {&d_q, &d_k, &d_v}) operand->poison();
  }

  BackwardParams backward_params() {
    return {params(), d_out.view(), d_q.view(), {}, d_k.view(), d_v.view()};
  }
};

}  // namespace loza::testing
