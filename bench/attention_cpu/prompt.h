#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "bench/attention_cpu/sizes.h"

// A prompt's attention in two ways, and what its results are held against.
namespace loza::bench {

// Random queries, keys and values of one sequence.
struct Prompt {
  Sizes sizes;
  std::int64_t len;
  at::Tensor q, k, v;  // [T, H, D], [T, G, D], [T, G, V]

  Prompt(const Sizes& of, std::int64_t length, at::ScalarType dtype);

  // [T, H, V]
  at::Tensor ours(const BlockPattern& pattern) const;
  // libtorch's, [1, H, T, V]. `mask`: as boolean_mask gives it; undefined for causal.
  at::Tensor torch(const at::Tensor& mask) const;

  // The same with values as long as keys: libtorch's fused kernel wants equal sizes.
  Prompt with_padded_values() const;
  // The same numbers, for attention by definition.
  Prompt in_fp64() const;
  void ask_for_gradients();
};

// [T, T] bool: which keys (columns) a query sees, by the token rule.
at::Tensor boolean_mask(const BlockPattern& pattern, std::int64_t len);

// Length of the shortened copy of a case that is checked.
constexpr std::int64_t kCheckedLen = 1300;

// Throws, naming `what`, where `ours` leaves the bound of `dtype`: 2e-5 of the largest
// number in fp32, 2e-2 in bf16.
void expect_close(const std::string& what, const at::Tensor& ours, const at::Tensor& exact,
                  at::ScalarType dtype);

}  // namespace loza::bench
