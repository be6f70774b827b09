#include "loza/model/gqa.h"

#include <torch/torch.h>

#include "loza/base/check.h"
#include "loza/model/elementwise.h"
#include "loza/model/kv_rows.h"

namespace loza {

Gqa::Gqa(Weights& weights, const std::string& name, const ModelConfig& config,
         std::int64_t module_idx)
    : module_idx_(module_idx),
      heads_(config.num_heads),
      key_heads_(config.num_key_heads),
      size_(config.head_size),
      norm_eps_(config.norm_eps),
      qkv_(weights,
           {{name + ".q_proj", heads_ * size_},
            {name + ".k_proj", key_heads_ * size_},
            {name + ".v_proj", key_heads_ * size_}},
           config.hidden_size, config.qkv_bias, Linear::Use::kSensitive),
      out_(weights, {{name + ".o_proj", config.hidden_size}}, heads_ * size_, config.o_bias) {
  if (config.qk_norm) {
    q_norm_ = weights.take(name + ".q_norm.weight", {size_});
    k_norm_ = weights.take(name + ".k_norm.weight", {size_});
  }
}

at::Tensor Gqa::add(const at::Tensor& residual, const at::Tensor& x,
                    const ForwardContext& context) const {
  const std::int64_t num_tokens = x.size(0);
  const at::Tensor qkv = qkv_(x).view({num_tokens, heads_ + 2 * key_heads_, size_});
  at::Tensor q = qkv.narrow(1, 0, heads_), k = qkv.narrow(1, heads_, key_heads_);
  const at::Tensor v = qkv.narrow(1, heads_ + key_heads_, key_heads_);
  if (q_norm_.defined()) {
    q = rms_norm(q, q_norm_, norm_eps_);
    k = rms_norm(k, k_norm_, norm_eps_);
  }
  const ModuleRotation& rotation = context.rotation(module_idx_);
  const attention::Queries queries = rotation.rotate_queries(q);
  k = rotate(k, rotation.rotation);
  const at::Tensor out = context.mode == ForwardContext::Mode::kCore
                             ? context.batch.core->attend(module_idx_, queries, k, v,
                                                          context.sequences, rotation.softmax_scale)
                             : attend(queries, at::cat({k, v}, 1).flatten(1), context);
  return out_.added_to(residual, out.reshape({num_tokens, heads_ * size_}));
}

// queries [T, H, D], rows [T, 2 * G * D] of the new tokens -> [T, H, D].
at::Tensor Gqa::attend(const attention::Queries& queries, const at::Tensor& rows,
                       const ForwardContext& context) const {
  const PagedKvView& kv = context.kv(module_idx_);
  const BlockPattern pattern = context.pattern(module_idx_);
  const double scale = context.rotation(module_idx_).softmax_scale;
  LOZA_CHECK(
      kv.k_head_stride == size_ && kv.v_offset == key_heads_ * size_ && kv.v_head_stride == size_,
      kv.k_head_stride, kv.v_offset, kv.v_head_stride);
  if (context.mode == ForwardContext::Mode::kDecode) {
    return context.decode(module_idx_, queries, rows, key_heads_, size_);
  }
  const ChunkRows chunk = gather_chunk(kv, pattern, context.batch.offsets, rows);
  const at::Tensor kv_heads = chunk.rows.view({chunk.rows.size(0), 2 * key_heads_, size_});
  const at::Tensor out = attention::attend(queries, kv_heads.narrow(1, 0, key_heads_),
                                           kv_heads.narrow(1, key_heads_, key_heads_),
                                           chunk.sequences, pattern, scale);
  write_rows(kv, context.batch.offsets, rows);
  return out;
}

}  // namespace loza
