#pragma once

#include <ATen/core/Tensor.h>

#include <cmath>
#include <cstdint>

#include "loza/attention/pattern.h"

// What the cases compute, and how much work it is.
namespace loza::bench {

// Sizes of attention: H query heads, G key heads, D, V.
struct Sizes {
  std::int64_t heads, key_heads, qk_size, v_size;

  double scale() const { return 1 / std::sqrt(static_cast<double>(qk_size)); }
  std::int64_t group() const { return heads / key_heads; }
};

constexpr Sizes kExpanded{8, 8, 192, 128};  // MLA in prefill and training
constexpr Sizes kAbsorbed{8, 1, 576, 512};  // MLA in decode: the value is the key's beginning
constexpr Sizes kGrouped{32, 8, 128, 128};

constexpr at::ScalarType kBoth[] = {at::kBFloat16, at::kFloat};

// "bf16" or "fp32"; "full" or "streaming".
const char* name_of(at::ScalarType dtype);
const char* name_of(const BlockPattern& pattern);

// Key-query pairs that the pattern lets through, of queries at [first_pos, len).
double num_pairs(const BlockPattern& pattern, std::int64_t first_pos, std::int64_t len);

// What a case asks of the machine.
struct Work {
  double flops = 0;
  double bytes = 0;  // of the tensors, each read or written once
};

// Of so many pairs, for all heads. The backward pass computes the scores anew.
double forward_flops(const Sizes& sizes, double pairs);
double backward_flops(const Sizes& sizes, double pairs);

// Of a prompt under a pattern: forward moves q, k, v and the output; backward these, d_out and
// the three gradients.
Work forward_work(const Sizes& sizes, const BlockPattern& pattern, std::int64_t len,
                  at::ScalarType dtype);
Work forward_and_backward_work(const Sizes& sizes, const BlockPattern& pattern, std::int64_t len,
                               at::ScalarType dtype);

}  // namespace loza::bench
