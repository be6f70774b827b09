#include "loza/model/mla.h"

#include <torch/torch.h>

#include "loza/base/check.h"
#include "loza/model/elementwise.h"
#include "loza/model/head_product.h"
#include "loza/model/kv_rows.h"

namespace loza {

Mla::Mla(Weights& weights, const std::string& name, const ModelConfig& config,
         std::int64_t module_idx)
    : module_idx_(module_idx),
      heads_(config.num_heads),
      nope_size_(config.nope_size),
      rope_size_(config.rope_size),
      v_size_(config.v_size),
      latent_size_(config.kv_lora_rank),
      norm_eps_(config.latent_norm_eps),
      latent_scale_(config.latent_scale) {
  constexpr Linear::Use kSensitive = Linear::Use::kSensitive;
  const std::int64_t hidden = config.hidden_size, q_size = heads_ * config.qk_size();
  if (config.q_lora_rank > 0) {
    q_a_ = Linear(weights, {{name + ".q_a_proj", config.q_lora_rank}}, hidden, /*bias=*/false,
                  kSensitive);
    q_a_norm_ = weights.take(name + ".q_a_layernorm.weight", {config.q_lora_rank});
    q_b_ = Linear(weights, {{name + ".q_b_proj", q_size}}, config.q_lora_rank, /*bias=*/false,
                  kSensitive);
  } else {
    q_b_ = Linear(weights, {{name + ".q_proj", q_size}}, hidden, /*bias=*/false, kSensitive);
  }
  kv_a_ = Linear(weights, {{name + ".kv_a_proj_with_mqa", latent_size_ + rope_size_}}, hidden,
                 /*bias=*/false, kSensitive);
  kv_a_norm_ = weights.take(name + ".kv_a_layernorm.weight", {latent_size_});
  kv_b_ = Linear(weights, {{name + ".kv_b_proj", heads_ * (nope_size_ + v_size_)}}, latent_size_,
                 /*bias=*/false, Linear::Use::kWeightToo);
  out_ = Linear(weights, {{name + ".o_proj", hidden}}, heads_ * v_size_, /*bias=*/false);
}

at::Tensor Mla::add(const at::Tensor& residual, const at::Tensor& x,
                    const ForwardContext& context) const {
  const ModuleRotation& rotation = context.rotation(module_idx_);
  const attention::Queries q = queries(x, rotation);
  const at::Tensor new_rows = rows(x, rotation.rotation);
  at::Tensor out;  // [T, H, V]
  switch (context.mode) {
    case ForwardContext::Mode::kCore: {
      const auto [k, v] = expand(new_rows);
      out = context.batch.core->attend(module_idx_, q, k, v, context.sequences,
                                       rotation.softmax_scale);
      break;
    }
    case ForwardContext::Mode::kPrefill:
      out = prefill(q, new_rows, context);
      break;
    case ForwardContext::Mode::kDecode:
      out = decode(q, new_rows, context);
      break;
  }
  return out_.added_to(residual, out.reshape({x.size(0), heads_ * v_size_}));
}

// [T, H, nope + P], the second part rotated.
attention::Queries Mla::queries(const at::Tensor& x, const ModuleRotation& rotation) const {
  const at::Tensor q = q_b_(q_a_norm_.defined() ? rms_norm(q_a_(x), q_a_norm_, norm_eps_) : x)
                           .view({x.size(0), heads_, nope_size_ + rope_size_});
  return rotation.rotate_queries(q, /*prefix=*/nope_size_);
}

// [T, R + P]: what the cache keeps.
at::Tensor Mla::rows(const at::Tensor& x, const Rotation& rotation) const {
  const at::Tensor row = kv_a_(x);
  const at::Tensor key = row.narrow(1, latent_size_, rope_size_).unsqueeze(1);  // [T, 1, P]
  at::Tensor latent = rms_norm(row.narrow(1, 0, latent_size_), kv_a_norm_, norm_eps_);
  if (latent_scale_ != 1) latent = latent * latent_scale_;
  return at::cat({latent, rotate(key, rotation).squeeze(1)}, 1);
}

// Keys [S, H, nope + P] and values [S, H, V] of every head.
std::pair<at::Tensor, at::Tensor> Mla::expand(const at::Tensor& rows) const {
  const std::int64_t num_rows = rows.size(0);
  const at::Tensor kv =
      kv_b_(rows.narrow(1, 0, latent_size_)).view({num_rows, heads_, nope_size_ + v_size_});
  const at::Tensor shared_key = rows.narrow(1, latent_size_, rope_size_).unsqueeze(1);
  return {at::cat({kv.narrow(2, 0, nope_size_), shared_key.expand({-1, heads_, -1})}, 2),
          kv.narrow(2, nope_size_, v_size_)};
}

at::Tensor Mla::prefill(const attention::Queries& queries, const at::Tensor& rows,
                        const ForwardContext& context) const {
  const PagedKvView& kv = context.kv(module_idx_);
  const BlockPattern pattern = context.pattern(module_idx_);
  const ChunkRows chunk = gather_chunk(kv, pattern, context.batch.offsets, rows);
  const auto [k, v] = expand(chunk.rows);
  const at::Tensor out = attention::attend(queries, k, v, chunk.sequences, pattern,
                                           context.rotation(module_idx_).softmax_scale);
  write_rows(kv, context.batch.offsets, rows);
  return out;
}

at::Tensor Mla::decode(const attention::Queries& queries, const at::Tensor& rows,
                       const ForwardContext& context) const {
  LOZA_CHECK(context.kv(module_idx_).v_offset == 0, context.kv(module_idx_).v_offset);
  const at::Tensor weight = kv_b_.weight().view({heads_, nope_size_ + v_size_, latent_size_});
  const at::Tensor key_weight = weight.narrow(1, 0, nope_size_);          // [H, nope, R]
  const at::Tensor value_weight = weight.narrow(1, nope_size_, v_size_);  // [H, V, R]

  const at::Tensor q_latent = head_product(queries.q.narrow(2, 0, nope_size_), key_weight);
  const auto row_of = [&](const at::Tensor& q) {
    return at::cat({q_latent, q.narrow(2, nope_size_, rope_size_)}, 2);
  };
  const attention::Queries row_queries(
      row_of(queries.q), queries.sink_q.defined() ? row_of(queries.sink_q) : at::Tensor());
  const at::Tensor latent = context.decode(module_idx_, row_queries, rows, /*num_key_heads=*/1,
                                           latent_size_);  // [T, H, R]
  return head_product(latent, value_weight.transpose(1, 2));
}

}  // namespace loza
