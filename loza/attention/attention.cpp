#include "loza/attention/attention.h"

#include <torch/torch.h>

#include <utility>

#include "loza/attention/autograd.h"
#include "loza/attention/flash.h"
#include "loza/attention/on_cpu.h"
#include "loza/attention/on_hopper.h"
#include "loza/attention/reference/torch_ops.h"
#include "loza/base/check.h"

namespace loza::attention {

DType dtype_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return DType::kF64;
    case at::kFloat:
      return DType::kF32;
    case at::kBFloat16:
      return DType::kBF16;
    case at::kHalf:
      return DType::kF16;
    default:
      break;
  }
  LOZA_CHECK(false, "fp64, fp32, bf16 or fp16 expected, got", c10::toString(dtype));
  return DType::kF32;
}
namespace {

void check_offsets(const std::vector<std::int64_t>& offsets, std::int64_t num_rows) {
  LOZA_CHECK(!offsets.empty() && offsets.front() == 0, offsets.size());
  LOZA_CHECK(offsets.back() == num_rows, offsets.back(), num_rows);
  for (std::size_t i = 1; i < offsets.size(); ++i) {
    LOZA_CHECK(offsets[i - 1] <= offsets[i], i, offsets[i - 1], offsets[i]);
  }
}

void check_call(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                const Sequences& sequences) {
  LOZA_CHECK(q.dim() == 3 && k.dim() == 3 && v.dim() == 3, q.dim(), k.dim(), v.dim());
  LOZA_CHECK(q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type(),
             c10::toString(q.scalar_type()), c10::toString(k.scalar_type()),
             c10::toString(v.scalar_type()));
  LOZA_CHECK(q.device() == k.device() && q.device() == v.device(), q.device().str(),
             k.device().str(), v.device().str());
  LOZA_CHECK(q.size(2) == k.size(2), "D of q and k", q.size(2), k.size(2));
  LOZA_CHECK(k.size(0) == v.size(0), "tokens of k and v", k.size(0), v.size(0));
  LOZA_CHECK(k.size(1) == v.size(1), "heads of k and v", k.size(1), v.size(1));
  LOZA_CHECK(k.size(1) >= 1 && q.size(1) % k.size(1) == 0, "heads of q and k", q.size(1),
             k.size(1));
  check_offsets(sequences.q_offsets, q.size(0));
  check_offsets(sequences.k_offsets, k.size(0));
  const auto num_sequences = static_cast<std::size_t>(sequences.size());
  LOZA_CHECK(sequences.k_offsets.size() == num_sequences + 1, sequences.k_offsets.size(),
             num_sequences + 1);
  for (const auto* of_sequence : {&sequences.kept_prefix, &sequences.skipped}) {
    LOZA_CHECK(of_sequence->empty() || of_sequence->size() == num_sequences, of_sequence->size(),
               num_sequences);
  }
}

bool needs_gradients(const Queries& queries, const at::Tensor& k, const at::Tensor& v) {
  const auto needs_one = [](const at::Tensor& x) { return x.defined() && x.requires_grad(); };
  return at::GradMode::is_enabled() &&
         (needs_one(queries.q) || needs_one(queries.sink_q) || needs_one(k) || needs_one(v));
}

}  // namespace

Queries::Queries(at::Tensor q, at::Tensor sink_q) : q(std::move(q)), sink_q(std::move(sink_q)) {
  LOZA_CHECK(!this->sink_q.defined() || (this->sink_q.sizes() == this->q.sizes() &&
                                         this->sink_q.scalar_type() == this->q.scalar_type() &&
                                         this->sink_q.device() == this->q.device()));
}

Sequences Sequences::whole(std::vector<std::int64_t> offsets) {
  Sequences sequences;
  sequences.q_offsets = offsets;
  sequences.k_offsets = std::move(offsets);
  return sequences;
}

at::Tensor attend(const Queries& queries, const at::Tensor& k, const at::Tensor& v,
                  const Sequences& sequences, const BlockPattern& pattern, double scale) {
  check_call(queries.q, k, v, sequences);
  if (!needs_gradients(queries, k, v) && on_hopper::check(queries, k, v, pattern, scale).ok()) {
    return on_hopper::attend_with_lse(queries, k, v, sequences, pattern, scale).first;
  }
  if (flash::can_attend(queries.q, k, v)) {
    return flash::attend(queries, k, v, sequences, pattern, scale, needs_gradients(queries, k, v));
  }
  if (!queries.q.device().is_cpu()) {
    return torch_ops::attend(queries, k, v, sequences, pattern, scale);
  }
  if (needs_gradients(queries, k, v)) {
    return attend_with_gradients(queries, k, v, sequences, pattern, scale);
  }
  return on_cpu::attend(queries, k, v, sequences, pattern, scale, on_cpu::WithLse::kNo).first;
}

std::pair<at::Tensor, at::Tensor> attend_with_lse(const Queries& queries, const at::Tensor& k,
                                                  const at::Tensor& v, const Sequences& sequences,
                                                  const BlockPattern& pattern, double scale) {
  check_call(queries.q, k, v, sequences);
  const at::NoGradGuard no_grad;
  if (queries.q.device().is_cpu()) {
    return on_cpu::attend(queries, k, v, sequences, pattern, scale, on_cpu::WithLse::kYes);
  }
  if (on_hopper::check(queries, k, v, pattern, scale).ok()) {
    return on_hopper::attend_with_lse(queries, k, v, sequences, pattern, scale);
  }
  if (flash::can_attend(queries.q, k, v)) {
    return flash::attend_with_lse(queries, k, v, sequences, pattern, scale);
  }
  auto [out, lse] = torch_ops::attend_with_lse(queries, k, v, sequences, pattern, scale);
  return {out, lse.to(at::kFloat)};
}

at::Tensor attend_paged(const Queries& queries, const PagedKvView& kv, std::int64_t num_sequences,
                        std::int64_t num_key_heads, std::int64_t v_size,
                        const BlockPattern& pattern, double scale) {
  const at::Tensor& q = queries.q;
  LOZA_CHECK(q.dim() == 3, q.dim());
  LOZA_CHECK(num_sequences == 0 ? q.size(0) == 0 : q.size(0) % num_sequences == 0, q.size(0),
             num_sequences);
  if (q.device().is_cpu()) {
    return on_cpu::attend_paged(queries, kv, num_sequences, num_key_heads, v_size, pattern, scale);
  }
  if (on_hopper::check_paged(queries, kv, num_sequences, num_key_heads, v_size, pattern, scale)
          .ok()) {
    return on_hopper::attend_paged(queries, kv, num_sequences, num_key_heads, v_size, pattern,
                                   scale);
  }
  return torch_ops::attend_paged(queries, kv, num_sequences, num_key_heads, v_size, pattern, scale,
                                 attend);
}

bool can_attend_on_device(const Queries& queries, const PagedKvView& kv, std::int64_t num_sequences,
                          std::int64_t num_key_heads, std::int64_t v_size,
                          const BlockPattern& pattern, double scale) {
  return on_hopper::check_paged(queries, kv, num_sequences, num_key_heads, v_size, pattern, scale)
      .ok();
}

at::Tensor attend_paged_on_device(const Queries& queries, const PagedKvView& kv,
                                  std::int64_t num_sequences, std::int64_t num_key_heads,
                                  std::int64_t v_size, const BlockPattern& pattern, double scale,
                                  std::int64_t max_length) {
  return on_hopper::attend_paged_on_device(queries, kv, num_sequences, num_key_heads, v_size,
                                           pattern, scale, max_length, /*stable_prefix=*/true);
}

std::pair<at::Tensor, at::Tensor> merge(const at::Tensor& out_a, const at::Tensor& lse_a,
                                        const at::Tensor& out_b, const at::Tensor& lse_b) {
  LOZA_CHECK(out_a.dim() == 3 && out_a.sizes() == out_b.sizes() &&
                 out_a.scalar_type() == out_b.scalar_type(),
             c10::str(out_a.sizes()), c10::str(out_b.sizes()));
  LOZA_CHECK(lse_a.sizes() == out_a.sizes().slice(0, 2) && lse_b.sizes() == lse_a.sizes() &&
                 lse_a.scalar_type() == at::kFloat && lse_b.scalar_type() == at::kFloat,
             c10::str(lse_a.sizes()), c10::str(lse_b.sizes()));
  const at::NoGradGuard no_grad;
  if (on_hopper::check_merge(out_a).ok()) return on_hopper::merge(out_a, lse_a, out_b, lse_b);
  const at::Tensor lse = at::logaddexp(lse_a, lse_b);
  const auto share = [&](const at::Tensor& out, const at::Tensor& part_lse) {
    const at::Tensor weight = at::exp(part_lse - lse).unsqueeze(-1);
    return at::where(part_lse.isneginf().unsqueeze(-1), 0.0f, out * weight);
  };
  return {(share(out_a, lse_a) + share(out_b, lse_b)).to(out_a.scalar_type()), lse};
}

}  // namespace loza::attention
