#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "loza/attention/attention.h"
#include "loza/attention/reference/torch_ops.h"

// One attention call with its gradients, run in several ways and compared.
namespace loza::attention::testing {

struct Call {
  at::Tensor q, sink_q, k, v, d_out;
  Sequences sequences;
  double scale = 0.3;
};

inline Call random_call(at::ScalarType dtype, const std::vector<std::int64_t>& lengths,
                        std::int64_t heads, std::int64_t key_heads, std::int64_t qk_size,
                        std::int64_t v_size) {
  torch::manual_seed(7);
  Call call;
  std::vector<std::int64_t> offsets{0};
  for (const std::int64_t length : lengths) offsets.push_back(offsets.back() + length);
  call.sequences = Sequences::whole(offsets);
  const auto randn = [&](std::int64_t of_heads, std::int64_t size) {
    return torch::randn({offsets.back(), of_heads, size}, at::kDouble).to(dtype);
  };
  call.q = randn(heads, qk_size);
  call.sink_q = randn(heads, qk_size);
  call.k = randn(key_heads, qk_size);
  call.v = randn(key_heads, v_size);
  call.d_out = randn(heads, v_size);
  return call;
}

struct Results {
  at::Tensor out, d_q, d_sink_q, d_k, d_v;
};

inline Results run(const Call& call, torch_ops::AttendFn attend, const BlockPattern& pattern,
                   at::ScalarType dtype, at::Device device) {
  const auto leaf = [&](const at::Tensor& x) {
    if (!x.defined()) return x;
    return x.detach().to(device, dtype, false, /*copy=*/true).requires_grad_(true);
  };
  const at::Tensor q = leaf(call.q), sink_q = leaf(call.sink_q), k = leaf(call.k), v = leaf(call.v);
  const at::Tensor out = attend({q, sink_q}, k, v, call.sequences, pattern, call.scale);
  out.backward(call.d_out.to(device, dtype));
  const auto gradient = [](const at::Tensor& x) {
    return x.defined() && x.grad().defined() ? x.grad() : at::Tensor();
  };
  return {out.detach(), gradient(q), gradient(sink_q), gradient(k), gradient(v)};
}

// Within a share of the largest number. A gradient that one way leaves out is all zeros in the
// other.
inline void expect_close(const Results& results, const Results& exact, double tolerance) {
  const auto check = [&](const char* name, const at::Tensor& a, const at::Tensor& b) {
    if (!a.defined() && !b.defined()) return;
    const auto in_fp64 = [](const at::Tensor& x, const at::Tensor& other) {
      return x.defined() ? x.to(at::kCPU, at::kDouble)
                         : at::zeros(other.sizes(), at::TensorOptions(at::kDouble));
    };
    const at::Tensor x = in_fp64(a, b), y = in_fp64(b, a);
    const double largest = y.abs().max().item<double>();
    EXPECT_TRUE(x.isfinite().all().item<bool>()) << name;
    EXPECT_LE((x - y).abs().max().item<double>(), tolerance * largest) << name;
  };
  check("out", results.out, exact.out);
  check("d_q", results.d_q, exact.d_q);
  check("d_sink_q", results.d_sink_q, exact.d_sink_q);
  check("d_k", results.d_k, exact.d_k);
  check("d_v", results.d_v, exact.d_v);
}

}  // namespace loza::attention::testing
