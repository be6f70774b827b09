#include "bench/attention_cpu/sizes.h"

namespace loza::bench {
namespace {

// Of the four tensors of a prompt that have the sizes of its queries, keys, values and output.
double prompt_bytes(const Sizes& sizes, std::int64_t len, at::ScalarType dtype) {
  const std::int64_t row = (sizes.heads + sizes.key_heads) * (sizes.qk_size + sizes.v_size);
  return static_cast<double>(len * row * static_cast<std::int64_t>(c10::elementSize(dtype)));
}

}  // namespace

const char* name_of(at::ScalarType dtype) { return dtype == at::kBFloat16 ? "bf16" : "fp32"; }
const char* name_of(const BlockPattern& pattern) {
  return pattern.is_full() ? "full" : "streaming";
}

double num_pairs(const BlockPattern& pattern, std::int64_t first_pos, std::int64_t len) {
  double pairs = 0;
  for (std::int64_t pos = first_pos; pos < len; ++pos) {
    pairs += static_cast<double>(num_visible_keys(pattern, pos));
  }
  return pairs;
}

double forward_flops(const Sizes& sizes, double pairs) {
  return 2 * pairs * static_cast<double>((sizes.qk_size + sizes.v_size) * sizes.heads);
}
double backward_flops(const Sizes& sizes, double pairs) {
  return 2 * pairs * static_cast<double>((3 * sizes.qk_size + 2 * sizes.v_size) * sizes.heads);
}

Work forward_work(const Sizes& sizes, const BlockPattern& pattern, std::int64_t len,
                  at::ScalarType dtype) {
  return {forward_flops(sizes, num_pairs(pattern, 0, len)), prompt_bytes(sizes, len, dtype)};
}

Work forward_and_backward_work(const Sizes& sizes, const BlockPattern& pattern, std::int64_t len,
                               at::ScalarType dtype) {
  const Work forward = forward_work(sizes, pattern, len, dtype);
  // Backward reads the four and d_out, and writes as much as q, k and v.
  const double backward_bytes = 2 * forward.bytes;
  return {forward.flops + backward_flops(sizes, num_pairs(pattern, 0, len)),
          forward.bytes + backward_bytes};
}

}  // namespace loza::bench
