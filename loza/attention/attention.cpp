#include "loza/attention/attention.h"

#include "loza/attention/reference/torch_ops.h"
#include "loza/base/check.h"

namespace loza::attention {

Sequences Sequences::whole(std::vector<std::int64_t> offsets) {
  Sequences sequences;
  sequences.q_offsets = offsets;
  sequences.k_offsets = std::move(offsets);
  return sequences;
}

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const Sequences& sequences, const BlockPattern& pattern, double scale) {
  return torch_ops::attend(q, k, v, sequences, pattern, scale);
}

std::pair<at::Tensor, at::Tensor> attend_with_lse(const at::Tensor& q, const at::Tensor& k,
                                                  const at::Tensor& v, const Sequences& sequences,
                                                  const BlockPattern& pattern, double scale) {
  return torch_ops::attend_with_lse(q, k, v, sequences, pattern, scale);
}

at::Tensor attend_paged(const at::Tensor& q, const PagedKvView& kv, std::int64_t num_sequences,
                        std::int64_t num_key_heads, std::int64_t v_size,
                        const BlockPattern& pattern, double scale) {
  return torch_ops::attend_paged(q, kv, num_sequences, num_key_heads, v_size, pattern, scale);
}

}  // namespace loza::attention
