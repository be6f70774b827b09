#include "loza/attention/flash.h"

#include <torch/torch.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "loza/attention/paged_rows.h"
#include "loza/attention/saved_call.h"
#include "loza/base/check.h"

namespace loza::attention::flash {
namespace {

// Keys and values that are gathered at one time.
constexpr std::int64_t kMaxGatheredBytes = std::int64_t{1} << 29;
constexpr std::int64_t kMaxPieces = 65535;  // of a CUDA grid's second dimension
constexpr std::int64_t kMaxHeadSize = 256, kHeadSizeUnit = 8;
// From here on cuDNN's kernels take a sequence that is alone and sees everything.
constexpr std::int64_t kMinCudnnLen = 8192, kMaxCudnnHeadSize = 128;

// Rows of one kernel call: piece i of the queries meets piece i of the keys. In a causal part the
// last query of a piece sees its last key.
struct Part {
  bool is_causal = true;
  bool by_sink_query = false;
  std::vector<RowRun> q_runs, k_runs;
  std::vector<std::int32_t> q_offsets{0}, k_offsets{0};  // of the pieces, among the runs' rows
  std::int64_t longest_q = 0, longest_k = 0;

  void end_piece(std::int64_t q_len, std::int64_t k_len) {
    q_offsets.push_back(q_offsets.back() + static_cast<std::int32_t>(q_len));
    k_offsets.push_back(k_offsets.back() + static_cast<std::int32_t>(k_len));
    longest_q = std::max(longest_q, q_len);
    longest_k = std::max(longest_k, k_len);
  }
  std::int64_t num_keys() const { return k_offsets.back(); }
  std::int64_t num_pieces() const { return static_cast<std::int64_t>(q_offsets.size()) - 1; }
  bool is_empty() const { return q_offsets.back() == 0; }
};

void add_run(std::vector<RowRun>& runs, std::int64_t first_row, std::int64_t num_rows) {
  if (num_rows == 0) return;
  if (!runs.empty() && runs.back().first_row + runs.back().num_rows == first_row) {
    runs.back().num_rows += num_rows;
  } else {
    runs.push_back({first_row, num_rows});
  }
}

// One sequence's rows; SequenceRows (sequence.h) has the rules.
struct Rows {
  std::int64_t q_begin, q_end, k_begin, k_end, kept_prefix, skipped;

  Rows(const Sequences& sequences, std::size_t b)
      : q_begin(sequences.q_offsets[b]),
        q_end(sequences.q_offsets[b + 1]),
        k_begin(sequences.k_offsets[b]),
        k_end(sequences.k_offsets[b + 1]),
        kept_prefix(sequences.kept_prefix.empty() ? 0 : sequences.kept_prefix[b]),
        skipped(sequences.skipped.empty() ? 0 : sequences.skipped[b]) {
    LOZA_CHECK(q_end == q_begin || first_pos() >= 0, q_end - q_begin, k_end - k_begin);
  }
  std::int64_t end_pos() const { return k_end - k_begin + skipped; }
  std::int64_t first_pos() const { return end_pos() - (q_end - q_begin); }
  std::int64_t q_row(std::int64_t pos) const { return q_begin + pos - first_pos(); }
  std::int64_t k_row(std::int64_t pos) const {
    return k_begin + (skipped == 0 || pos < kept_prefix ? pos : pos - skipped);
  }
};

Part full_part(const Sequences& sequences) {
  Part part;
  add_run(part.q_runs, 0, sequences.q_offsets.back());
  add_run(part.k_runs, 0, sequences.k_offsets.back());
  for (std::size_t b = 0; b < static_cast<std::size_t>(sequences.size()); ++b) {
    const Rows rows(sequences, b);
    part.end_piece(rows.q_end - rows.q_begin, rows.k_end - rows.k_begin);
  }
  return part;
}

// Each query block with the keys of its window: a sequence of its own. With sink queries the sink
// is left to sink_part.
std::vector<Part> window_parts(const Sequences& sequences, const BlockPattern& pattern,
                               bool has_sink_queries, std::int64_t max_keys) {
  const std::int64_t block = pattern.block_size;
  std::vector<Part> parts(1);
  for (std::size_t b = 0; b < static_cast<std::size_t>(sequences.size()); ++b) {
    const Rows rows(sequences, b);
    for (std::int64_t pos = rows.first_pos(); pos < rows.end_pos();) {
      const std::int64_t end = std::min((pos / block + 1) * block, rows.end_pos());
      const VisibleBlocks blocks = visible_blocks(pattern, pos / block);
      const std::int64_t num_sink = has_sink_queries ? 0 : blocks.sink.end * block;
      const std::int64_t recent = blocks.recent.begin * block;
      if (parts.back().num_keys() >= max_keys || parts.back().num_pieces() == kMaxPieces) {
        parts.emplace_back();
      }
      Part& part = parts.back();
      add_run(part.q_runs, rows.q_row(pos), end - pos);
      if (num_sink > 0) part.k_runs.push_back({rows.k_row(0), num_sink});
      part.k_runs.push_back({rows.k_row(recent), end - recent});
      part.end_piece(end - pos, num_sink + end - recent);
      pos = end;
    }
  }
  return parts;
}

// The queries that see the sink apart from their recent blocks, over the sink.
Part sink_part(const Sequences& sequences, const BlockPattern& pattern) {
  Part part;
  part.is_causal = false;
  part.by_sink_query = true;
  const std::int64_t sink_len = pattern.sink_blocks * pattern.block_size;
  const std::int64_t first_apart =
      (pattern.sink_blocks + pattern.recent_blocks) * pattern.block_size;
  for (std::size_t b = 0; b < static_cast<std::size_t>(sequences.size()); ++b) {
    const Rows rows(sequences, b);
    const std::int64_t begin = std::max(rows.first_pos(), first_apart);
    if (begin >= rows.end_pos() || sink_len == 0) continue;
    add_run(part.q_runs, rows.q_row(begin), rows.end_pos() - begin);
    part.k_runs.push_back({rows.k_row(0), sink_len});
    part.end_piece(rows.end_pos() - begin, sink_len);
  }
  return part;
}

bool sees_all(const Sequences& sequences, const BlockPattern& pattern) {
  if (pattern.is_full()) return true;
  for (std::size_t b = 0; b < static_cast<std::size_t>(sequences.size()); ++b) {
    const Rows rows(sequences, b);
    if (rows.skipped != 0 || rows.end_pos() > pattern.exact_len()) return false;
  }
  return true;
}

// Every query row is in one part that is not by_sink_query; one of those may follow.
std::vector<Part> parts_of(const Queries& queries, const at::Tensor& k, const at::Tensor& v,
                           const Sequences& sequences, const BlockPattern& pattern) {
  if (sees_all(sequences, pattern)) return {full_part(sequences)};
  const std::int64_t key_bytes = k.size(1) * (k.size(2) + v.size(2)) * k.element_size();
  std::vector<Part> parts = window_parts(sequences, pattern, queries.sink_q.defined(),
                                         std::max<std::int64_t>(1, kMaxGatheredBytes / key_bytes));
  if (queries.sink_q.defined()) {
    Part sink = sink_part(sequences, pattern);
    if (!sink.is_empty()) parts.push_back(std::move(sink));
  }
  return parts;
}

bool is_one_run(const std::vector<RowRun>& runs) { return runs.size() == 1; }

// The runs' rows of a tensor [rows, ...]: a view where they are one run.
at::Tensor rows_of(const at::Tensor& tensor, const std::vector<RowRun>& runs) {
  if (is_one_run(runs)) return tensor.narrow(0, runs[0].first_row, runs[0].num_rows);
  return tensor.index_select(0, row_indices(runs, tensor.device()));
}

void set_rows(const at::Tensor& tensor, const std::vector<RowRun>& runs, const at::Tensor& rows) {
  if (is_one_run(runs)) {
    tensor.narrow(0, runs[0].first_row, runs[0].num_rows).copy_(rows);
  } else {
    tensor.index_copy_(0, row_indices(runs, tensor.device()), rows.to(tensor.scalar_type()));
  }
}

void add_rows(const at::Tensor& tensor, const std::vector<RowRun>& runs, const at::Tensor& rows) {
  if (is_one_run(runs)) {
    tensor.narrow(0, runs[0].first_row, runs[0].num_rows).add_(rows);
  } else {
    tensor.index_add_(0, row_indices(runs, tensor.device()), rows.to(tensor.scalar_type()));
  }
}

// The kernels want one head size for queries, keys and values, and rows of contiguous heads.
at::Tensor padded(const at::Tensor& heads, std::int64_t size) {
  if (heads.size(2) != size) return at::constant_pad_nd(heads, {0, size - heads.size(2)});
  return heads.stride(2) == 1 ? heads : heads.contiguous();
}

at::Tensor offsets_on(const std::vector<std::int32_t>& offsets, at::Device device) {
  return torch::tensor(offsets, at::kInt).to(device);
}

struct Operands {
  at::Tensor q, k, v;  // of a part, padded to one head size
  at::Tensor q_offsets, k_offsets;

  Operands(const Part& part, const Queries& queries, const at::Tensor& keys,
           const at::Tensor& values) {
    const std::int64_t size = std::max(keys.size(2), values.size(2));
    q = padded(rows_of(part.by_sink_query ? queries.sink_q : queries.q, part.q_runs), size);
    k = padded(rows_of(keys, part.k_runs), size);
    v = padded(rows_of(values, part.k_runs), size);
    q_offsets = offsets_on(part.q_offsets, q.device());
    k_offsets = offsets_on(part.k_offsets, q.device());
  }
};

// -> out [rows, H, V], lse [rows, H] fp32 of a part.
std::pair<at::Tensor, at::Tensor> attend_part(const Part& part, const Queries& queries,
                                              const at::Tensor& k, const at::Tensor& v,
                                              double scale) {
  const Operands in(part, queries, k, v);
  const auto result = at::_flash_attention_forward(
      in.q, in.k, in.v, in.q_offsets, in.k_offsets, part.longest_q, part.longest_k,
      /*dropout_p=*/0.0, part.is_causal, /*return_debug_mask=*/false, scale);
  const at::Tensor out = std::get<0>(result).narrow(2, 0, v.size(2));
  const at::Tensor lse = std::get<1>(result);  // [H, rows]
  LOZA_CHECK(lse.dim() == 2 && lse.size(0) == in.q.size(1) && lse.size(1) == in.q.size(0),
             lse.dim());
  return {out, lse.transpose(0, 1)};
}

// Adds other keys of the same rows: out and lse become those of all keys.
void merge(const at::Tensor& part_out, const at::Tensor& part_lse, at::Tensor& out,
           at::Tensor& lse) {
  const at::Tensor all = at::logaddexp(lse, part_lse);
  const auto weight = [&](const at::Tensor& of) { return at::exp(of - all).unsqueeze(-1); };
  out = (out * weight(lse) + part_out * weight(part_lse)).to(out.scalar_type());
  lse = all;
}

std::pair<at::Tensor, at::Tensor> forward(const Queries& queries, const at::Tensor& k,
                                          const at::Tensor& v, const Sequences& sequences,
                                          const BlockPattern& pattern, double scale) {
  const at::Tensor& q = queries.q;
  const at::Tensor out = at::empty({q.size(0), q.size(1), v.size(2)}, q.options());
  const at::Tensor lse = at::empty({q.size(0), q.size(1)}, q.options().dtype(at::kFloat));
  if (q.size(0) == 0) return {out, lse};
  for (const Part& part : parts_of(queries, k, v, sequences, pattern)) {
    auto [part_out, part_lse] = attend_part(part, queries, k, v, scale);
    if (part.by_sink_query) {
      at::Tensor before = rows_of(out, part.q_runs), lse_before = rows_of(lse, part.q_runs);
      merge(part_out, part_lse, before, lse_before);
      set_rows(out, part.q_runs, before);
      set_rows(lse, part.q_runs, lse_before);
    } else {
      set_rows(out, part.q_runs, part_out);
      set_rows(lse, part.q_runs, part_lse);
    }
  }
  return {out, lse};
}

struct Gradients {
  at::Tensor d_q, d_sink_q, d_k, d_v;
};

// With out and lse of all of a row's keys, a part's kernel gives that part's gradients.
Gradients backward(const Queries& queries, const at::Tensor& k, const at::Tensor& v,
                   const at::Tensor& out, const at::Tensor& lse, const at::Tensor& d_out,
                   const Sequences& sequences, const BlockPattern& pattern, double scale) {
  Gradients sums;
  sums.d_q = at::zeros_like(queries.q);
  if (queries.sink_q.defined()) sums.d_sink_q = at::zeros_like(queries.sink_q);
  // A key's gradient is summed over the windows that see it.
  sums.d_k = at::zeros(k.sizes(), k.options().dtype(at::kFloat));
  sums.d_v = at::zeros(v.sizes(), v.options().dtype(at::kFloat));
  if (queries.q.size(0) > 0) {
    const at::Tensor no_state = at::zeros({2}, k.options().dtype(at::kLong));
    for (const Part& part : parts_of(queries, k, v, sequences, pattern)) {
      const Operands in(part, queries, k, v);
      const std::int64_t size = in.q.size(2);
      const auto [d_q, d_k, d_v] = at::_flash_attention_backward(
          padded(rows_of(d_out, part.q_runs), size), in.q, in.k, in.v,
          padded(rows_of(out, part.q_runs), size),
          rows_of(lse, part.q_runs).transpose(0, 1).contiguous(), in.q_offsets, in.k_offsets,
          part.longest_q, part.longest_k, /*dropout_p=*/0.0, part.is_causal, no_state, no_state,
          scale);
      set_rows(part.by_sink_query ? sums.d_sink_q : sums.d_q, part.q_runs,
               d_q.narrow(2, 0, k.size(2)));
      add_rows(sums.d_k, part.k_runs, d_k.narrow(2, 0, k.size(2)));
      add_rows(sums.d_v, part.k_runs, d_v.narrow(2, 0, v.size(2)));
    }
  }
  sums.d_k = sums.d_k.to(k.scalar_type());
  sums.d_v = sums.d_v.to(v.scalar_type());
  return sums;
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class FlashAttend : public torch::autograd::Function<FlashAttend> {
 public:
  // sink_q comes last, as in autograd.cpp.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const std::optional<at::Tensor>& sink_q,
                            const Sequences& sequences, const BlockPattern& pattern, double scale) {
    const at::Tensor sink = sink_q.value_or(at::Tensor());
    const auto [out, lse] = flash::forward({q, sink}, k, v, sequences, pattern, scale);
    context->save_for_backward({q, k, v, sink, out, lse});
    SavedCall{sequences, pattern, scale}.save(*context);
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& d_outs) {
    LOZA_CHECK(!at::GradMode::is_enabled(), "attention has no second derivatives");
    const auto saved = context->get_saved_variables();
    const SavedCall call = SavedCall::of(*context);
    const Gradients sums =
        flash::backward({saved[0], saved[3]}, saved[1], saved[2], saved[4], saved[5], d_outs[0],
                        call.sequences, call.pattern, call.scale);
    return {sums.d_q, sums.d_k, sums.d_v, sums.d_sink_q, {}, {}, {}};
  }
};

bool is_long_and_full(const Sequences& sequences, const BlockPattern& pattern) {
  const std::int64_t len = sequences.q_offsets.back();
  return sequences.size() == 1 && len >= kMinCudnnLen && sequences.k_offsets.back() == len &&
         sees_all(sequences, pattern);
}

// One long sequence by cuDNN's kernels, which are faster than flash attention's on Hopper.
// Differentiable by torch itself.
at::Tensor attend_by_cudnn(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           double scale, bool needs_lse) {
  const std::int64_t size = std::max(k.size(2), v.size(2)), group = q.size(1) / k.size(1);
  // [1, H, T, size], with the key heads repeated for the heads that share them
  const auto heads_first = [&](const at::Tensor& heads, std::int64_t repeats) {
    const at::Tensor whole = padded(heads, size);
    return (repeats == 1 ? whole : at::repeat_interleave(whole, repeats, 1))
        .transpose(0, 1)
        .unsqueeze(0);
  };
  const at::Tensor out = std::get<0>(at::_scaled_dot_product_cudnn_attention(
      heads_first(q, 1), heads_first(k, group), heads_first(v, group), /*attn_bias=*/{}, needs_lse,
      /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false, scale));
  return out.squeeze(0).transpose(0, 1).narrow(2, 0, v.size(2));
}

bool cudnn_fits(const at::Tensor& k, const at::Tensor& v) {
  return std::max(k.size(2), v.size(2)) <= kMaxCudnnHeadSize;
}

}  // namespace

bool can_attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const auto fits = [](std::int64_t size) {
    return size <= kMaxHeadSize && size % kHeadSizeUnit == 0;
  };
  const bool is_half = q.scalar_type() == at::kBFloat16 || q.scalar_type() == at::kHalf;
  return q.is_cuda() && is_half && fits(k.size(2)) && fits(v.size(2));
}

at::Tensor attend(const Queries& queries, const at::Tensor& k, const at::Tensor& v,
                  const Sequences& sequences, const BlockPattern& pattern, double scale,
                  bool needs_gradients) {
  if (is_long_and_full(sequences, pattern) && cudnn_fits(k, v)) {
    return attend_by_cudnn(queries.q, k, v, scale, /*needs_lse=*/needs_gradients);
  }
  if (!needs_gradients) {
    const at::NoGradGuard no_grad;
    return forward(queries, k, v, sequences, pattern, scale).first;
  }
  return FlashAttend::apply(queries.q, k, v, optional_tensor(queries.sink_q), sequences, pattern,
                            scale);
}

std::pair<at::Tensor, at::Tensor> attend_with_lse(const Queries& queries, const at::Tensor& k,
                                                  const at::Tensor& v, const Sequences& sequences,
                                                  const BlockPattern& pattern, double scale) {
  const at::NoGradGuard no_grad;
  return forward(queries, k, v, sequences, pattern, scale);
}

}  // namespace loza::attention::flash
