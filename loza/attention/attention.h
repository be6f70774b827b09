#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "loza/attention/params.h"
#include "loza/attention/pattern.h"

// The room's door for code that has tensors. Picks an implementation by device, dtype and
// size; checks shapes and throws std::logic_error (LOZA_CHECK) where a caller is wrong.
namespace loza::attention {

// The same dtype in the words of params.h. REQUIRES: fp64, fp32, bf16 or fp16.
DType dtype_of(at::ScalarType dtype);

// Which rows of the packed tensors belong to which sequence. See ForwardParams.
struct Sequences {
  std::vector<std::int64_t> q_offsets;    // [B+1]
  std::vector<std::int64_t> k_offsets;    // [B+1]
  std::vector<std::int64_t> kept_prefix;  // [B] or empty
  std::vector<std::int64_t> skipped;      // [B] or empty

  // Queries and keys of whole documents: the same offsets for both.
  static Sequences whole(std::vector<std::int64_t> offsets);
  std::int64_t size() const { return static_cast<std::int64_t>(q_offsets.size()) - 1; }
};

// Queries [T, H, D], and those that the sink is scored by (params.h), or an undefined tensor
// where the same serve for both.
struct Queries {
  at::Tensor q, sink_q;

  Queries(at::Tensor q, at::Tensor sink_q = {});  // NOLINT: a tensor is queries
};

// Attention of queries [T, H, D] over k [S, G, D], v [S, G, V] under the pattern -> [T, H, V],
// in q's dtype. Differentiable in queries, k and v. On the CPU by loza's own kernels; on CUDA, in
// bf16 and fp16, without gradients by its kernels for Hopper (on_hopper.h) where they take the
// sizes, else by ATen's flash attention (flash.h); otherwise by plain torch operations
// (reference/torch_ops.h).
at::Tensor attend(const Queries& queries, const at::Tensor& k, const at::Tensor& v,
                  const Sequences& sequences, const BlockPattern& pattern, double scale);

// The same without gradients, with the lse [T, H] fp32.
std::pair<at::Tensor, at::Tensor> attend_with_lse(const Queries& queries, const at::Tensor& k,
                                                  const at::Tensor& v, const Sequences& sequences,
                                                  const BlockPattern& pattern, double scale);

// Decode: queries [B * q_len, H, D] over pages -> [B * q_len, H, V]. No gradients. v_size is the
// value size V (the view does not know it). The pages lie on the queries' device, the page table
// and the lengths on the host.
at::Tensor attend_paged(const Queries& queries, const PagedKvView& kv, std::int64_t num_sequences,
                        std::int64_t num_key_heads, std::int64_t v_size,
                        const BlockPattern& pattern, double scale);

// The same where the page table and the lengths lie on the device too, and nothing is read from
// there on the host: a CUDA graph captures the call, and its replays read the lengths and tables of
// that moment. `max_length` bounds the lengths. The caller's word (Inputs::kStablePrefix,
// cuda/decode.h): the operation before this one on the stream wrote nothing that is read here but
// queries and rows of the pages that hold the new tokens.
at::Tensor attend_paged_on_device(const Queries& queries, const PagedKvView& kv,
                                  std::int64_t num_sequences, std::int64_t num_key_heads,
                                  std::int64_t v_size, const BlockPattern& pattern, double scale,
                                  std::int64_t max_length);
// Whether it takes such a call: by the queries' device, dtype and sizes, the view's sizes and the
// pattern.
bool can_attend_on_device(const Queries& queries, const PagedKvView& kv, std::int64_t num_sequences,
                          std::int64_t num_key_heads, std::int64_t v_size,
                          const BlockPattern& pattern, double scale);

// Two attentions of the same queries over different keys, as one: out [T, H, V] and lse [T, H] fp32
// of each. A part that saw nothing (lse -inf) adds nothing. No gradients.
std::pair<at::Tensor, at::Tensor> merge(const at::Tensor& out_a, const at::Tensor& lse_a,
                                        const at::Tensor& out_b, const at::Tensor& lse_b);

}  // namespace loza::attention
