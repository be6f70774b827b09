#include "bench/attention_cpu/sizes.h"

namespace loza::bench {

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

}  // namespace loza::bench
