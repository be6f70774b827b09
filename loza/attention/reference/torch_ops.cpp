#include "loza/attention/reference/torch_ops.h"

#include <torch/torch.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "loza/attention/paged_rows.h"
#include "loza/base/check.h"

namespace loza::torch_ops {
namespace {

using at::indexing::Slice;

// Upper bound on the scores that exist at one time, in elements.
constexpr std::int64_t kMaxScores = std::int64_t{1} << 25;

enum class WithLse : bool { kNo, kYes };

struct Result {
  at::Tensor out;  // [T, H, V]
  at::Tensor lse;  // [T, H], undefined without WithLse::kYes
};

// One sequence's rows and where they stand (see ForwardParams on positions).
struct Sequence {
  at::Tensor q, sink_q, k, v;  // [T, H, D], the same or undefined, [S, G, D], [S, G, V]
  std::int64_t kept_prefix = 0, skipped = 0;

  std::int64_t q_len() const { return q.size(0); }
  std::int64_t end_pos() const { return k.size(0) + skipped; }
  std::int64_t first_pos() const { return end_pos() - q_len(); }
  std::int64_t group_size() const { return q.size(1) / k.size(1); }
  // Key row of a position; -1 where the sequence has none.
  std::int64_t row_of(std::int64_t pos) const {
    if (pos < 0 || pos >= end_pos()) return -1;
    if (skipped == 0 || pos < kept_prefix) return pos;
    return pos < kept_prefix + skipped ? -1 : pos - skipped;
  }
};

// q [N, G, R, D] over k [N, G, W, D], v [N, G, W, V]; visible [N, 1, R, W] bool; every row sees
// something. -> out [N, G, R, V], lse [N, G, R].
Result softmax_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                         const at::Tensor& visible, double scale, WithLse with_lse) {
  if (with_lse == WithLse::kNo) {
    return {at::scaled_dot_product_attention(q, k, v, visible, 0.0, false, scale), {}};
  }
  const auto dtype = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor scores =
      (at::matmul(q.to(dtype), k.to(dtype).transpose(-1, -2)) * scale)
          .masked_fill(visible.logical_not(), -std::numeric_limits<double>::infinity());
  const at::Tensor lse = scores.logsumexp(-1);
  const at::Tensor weights = at::exp(scores - lse.unsqueeze(-1));
  return {at::matmul(weights, v.to(dtype)).to(q.scalar_type()), lse};
}

// Rows [T, G * r, D] of N equal stretches -> [N, G, r * (T / N), D]: the heads that share a key
// head stand among the rows, so that no key is copied for them.
at::Tensor group_rows(const at::Tensor& rows, std::int64_t stretches, std::int64_t key_heads) {
  const std::int64_t len = rows.size(0) / stretches, group = rows.size(1) / key_heads;
  return rows.view({stretches, len, key_heads, group, rows.size(2)})
      .permute({0, 2, 3, 1, 4})
      .reshape({stretches, key_heads, group * len, rows.size(2)});
}

// The inverse for out [N, G, r * len, V] -> [N * len, G * r, V].
at::Tensor ungroup_rows(const at::Tensor& grouped, std::int64_t group) {
  const std::int64_t stretches = grouped.size(0), key_heads = grouped.size(1);
  const std::int64_t len = grouped.size(2) / group, size = grouped.size(3);
  return grouped.view({stretches, key_heads, group, len, size})
      .permute({0, 3, 1, 2, 4})
      .reshape({stretches * len, key_heads * group, size});
}

Result ungroup(const Result& grouped, std::int64_t group) {
  Result result{ungroup_rows(grouped.out, group), {}};
  if (grouped.lse.defined()) {
    result.lse = ungroup_rows(grouped.lse.unsqueeze(-1), group).squeeze(-1);
  }
  return result;
}

Result concatenate(const std::vector<Result>& parts) {
  std::vector<at::Tensor> outs, lses;
  for (const Result& part : parts) {
    outs.push_back(part.out);
    if (part.lse.defined()) lses.push_back(part.lse);
  }
  return {at::cat(outs), lses.empty() ? at::Tensor() : at::cat(lses)};
}

// Query rows [begin, end) over all keys up to the last of them.
Result dense_rows(const Sequence& sequence, std::int64_t begin, std::int64_t end, double scale,
                  WithLse with_lse) {
  const std::int64_t num_keys = sequence.first_pos() + end;
  const auto options = sequence.q.options().dtype(at::kLong);
  const at::Tensor q_pos = at::arange(begin, end, options) + sequence.first_pos();
  const at::Tensor k_pos = at::arange(num_keys, options);
  const at::Tensor visible = (k_pos.unsqueeze(0) <= q_pos.unsqueeze(1))
                                 .repeat({sequence.group_size(), 1})
                                 .unsqueeze(0)
                                 .unsqueeze(0);
  const std::int64_t key_heads = sequence.k.size(1);
  const Slice keys(0, num_keys);
  return ungroup(
      softmax_attention(
          group_rows(sequence.q.index({Slice(begin, end)}).contiguous(), 1, key_heads),
          sequence.k.index({keys}).transpose(0, 1).unsqueeze(0),
          sequence.v.index({keys}).transpose(0, 1).unsqueeze(0), visible, scale, with_lse),
      sequence.group_size());
}

Result dense(const Sequence& sequence, double scale, WithLse with_lse) {
  const std::int64_t heads = sequence.q.size(1), q_len = sequence.q_len();
  if (with_lse == WithLse::kNo && q_len == sequence.k.size(0)) {
    const auto batch = [](const at::Tensor& rows) { return rows.transpose(0, 1).unsqueeze(0); };
    const at::Tensor out = at::scaled_dot_product_attention(
        batch(sequence.q), batch(sequence.k), batch(sequence.v), std::nullopt, 0.0,
        /*is_causal=*/true, scale, /*enable_gqa=*/sequence.group_size() > 1);
    return {out.squeeze(0).transpose(0, 1), {}};
  }
  const std::int64_t step = std::max<std::int64_t>(1, kMaxScores / (heads * sequence.k.size(0)));
  std::vector<Result> parts;
  for (std::int64_t begin = 0; begin < q_len; begin += step) {
    parts.push_back(dense_rows(sequence, begin, std::min(begin + step, q_len), scale, with_lse));
  }
  return concatenate(parts);
}

// Where the keys of the windows of query blocks [begin, end) lie.
struct Windows {
  at::Tensor rows;     // [N * W] long, rows of k and v; some row where there is none
  at::Tensor visible;  // [N, b, W] bool
  at::Tensor of_sink;  // [N, W] bool: keys of VisibleBlocks::sink
};

Windows windows_of(const Sequence& sequence, const BlockPattern& pattern, std::int64_t begin,
                   std::int64_t end) {
  const std::int64_t block = pattern.block_size, num = end - begin;
  std::int64_t width = 0;
  for (std::int64_t i = begin; i < end; ++i) {
    width = std::max(width, visible_blocks(pattern, i).size() * block);
  }
  // Positions of the window's keys; past every query where there is no key.
  const std::int64_t nowhere = std::numeric_limits<std::int64_t>::max();
  std::vector<std::int64_t> rows(static_cast<std::size_t>(num * width), 0);
  std::vector<std::int64_t> positions(rows.size(), nowhere);
  at::Tensor of_sink = at::zeros({num, width}, at::kBool);
  for (std::int64_t i = begin; i < end; ++i) {
    std::int64_t at = (i - begin) * width;
    const VisibleBlocks blocks = visible_blocks(pattern, i);
    of_sink[i - begin].narrow(0, 0, blocks.sink.size() * block).fill_(true);
    for (const BlockRange& range : {blocks.sink, blocks.recent}) {
      for (std::int64_t pos = range.begin * block; pos < range.end * block; ++pos, ++at) {
        const std::int64_t row = sequence.row_of(pos);
        if (row < 0) continue;
        rows[static_cast<std::size_t>(at)] = row;
        positions[static_cast<std::size_t>(at)] = pos;
      }
    }
  }
  const auto device = sequence.q.device();
  const at::Tensor k_pos = torch::tensor(positions, at::kLong).view({num, 1, width});
  const at::Tensor q_pos = at::arange(begin * block, end * block, at::kLong).view({num, block, 1});
  return {torch::tensor(rows, at::kLong).to(device), (k_pos <= q_pos).to(device),
          of_sink.to(device)};
}

// Keys [N, G, W, D] as rows of twice the size, for queries beside their sink queries: a key of the
// sink stands in the second half, others in the first, beside zeros.
at::Tensor beside_zeros(const at::Tensor& keys, const at::Tensor& of_sink) {
  const at::Tensor in_second = of_sink.view({keys.size(0), 1, keys.size(2), 1});
  return at::cat({keys.masked_fill(in_second, 0), keys.masked_fill(in_second.logical_not(), 0)},
                 -1);
}

// Query blocks [begin, end), whole ones: q [N * b, H, D], with a sink query beside it twice as
// wide.
Result window_rows(const Sequence& sequence, const at::Tensor& q, const BlockPattern& pattern,
                   std::int64_t begin, std::int64_t end, double scale, WithLse with_lse) {
  const std::int64_t num = end - begin, key_heads = sequence.k.size(1);
  const std::int64_t group = sequence.group_size();
  const Windows windows = windows_of(sequence, pattern, begin, end);
  const auto gather = [&](const at::Tensor& keys) {
    return keys.index_select(0, windows.rows)
        .view({num, -1, key_heads, keys.size(2)})
        .transpose(1, 2);
  };
  const at::Tensor keys = gather(sequence.k);
  return ungroup(
      softmax_attention(group_rows(q, num, key_heads),
                        sequence.sink_q.defined() ? beside_zeros(keys, windows.of_sink) : keys,
                        gather(sequence.v), windows.visible.repeat({1, group, 1}).unsqueeze(1),
                        scale, with_lse),
      group);
}

Result windowed(const Sequence& sequence, const BlockPattern& pattern, double scale,
                WithLse with_lse) {
  const std::int64_t block = pattern.block_size, q_len = sequence.q_len();
  const std::int64_t first_block = sequence.first_pos() / block;
  const std::int64_t end_block = (sequence.end_pos() + block - 1) / block;
  // Whole query blocks: rows before the chunk and past its end are zeros, and dropped again.
  const std::int64_t before = sequence.first_pos() - first_block * block;
  const std::int64_t after = end_block * block - sequence.end_pos();
  const at::Tensor queries =
      sequence.sink_q.defined() ? at::cat({sequence.q, sequence.sink_q}, -1) : sequence.q;
  const at::Tensor q = at::constant_pad_nd(queries, {0, 0, 0, 0, before, after});

  const std::int64_t window = (pattern.sink_blocks + pattern.recent_blocks) * block;
  const std::int64_t step =
      std::max<std::int64_t>(1, kMaxScores / (sequence.q.size(1) * block * window));
  std::vector<Result> parts;
  for (std::int64_t begin = first_block; begin < end_block; begin += step) {
    const std::int64_t end = std::min(begin + step, end_block);
    const at::Tensor rows =
        q.index({Slice((begin - first_block) * block, (end - first_block) * block)});
    parts.push_back(window_rows(sequence, rows, pattern, begin, end, scale, with_lse));
  }
  Result whole = concatenate(parts);
  const Slice chunk(before, before + q_len);
  whole.out = whole.out.index({chunk});
  if (whole.lse.defined()) whole.lse = whole.lse.index({chunk});
  return whole;
}

Result attend_sequence(const Sequence& sequence, const BlockPattern& pattern, double scale,
                       WithLse with_lse) {
  const bool sees_all = sequence.skipped == 0 && sequence.end_pos() <= pattern.exact_len();
  return pattern.is_full() || sees_all ? dense(sequence, scale, with_lse)
                                       : windowed(sequence, pattern, scale, with_lse);
}

Result attend_all(const attention::Queries& queries, const at::Tensor& k, const at::Tensor& v,
                  const attention::Sequences& sequences, const BlockPattern& pattern, double scale,
                  WithLse with_lse) {
  const auto& [q, sink_q] = queries;
  std::vector<Result> parts;
  for (std::size_t b = 0; b < static_cast<std::size_t>(sequences.size()); ++b) {
    const Slice q_rows(sequences.q_offsets[b], sequences.q_offsets[b + 1]);
    const Slice k_rows(sequences.k_offsets[b], sequences.k_offsets[b + 1]);
    if (sequences.q_offsets[b] == sequences.q_offsets[b + 1]) continue;
    const Sequence sequence{q.index({q_rows}),
                            sink_q.defined() ? sink_q.index({q_rows}) : sink_q,
                            k.index({k_rows}),
                            v.index({k_rows}),
                            sequences.kept_prefix.empty() ? 0 : sequences.kept_prefix[b],
                            sequences.skipped.empty() ? 0 : sequences.skipped[b]};
    parts.push_back(attend_sequence(sequence, pattern, scale, with_lse));
  }
  if (!parts.empty()) return concatenate(parts);
  return {at::zeros({0, q.size(1), v.size(2)}, q.options()),
          at::zeros({0, q.size(1)}, q.options().dtype(at::kFloat))};
}

at::ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return at::kDouble;
    case DType::kF32:
      return at::kFloat;
    case DType::kBF16:
      return at::kBFloat16;
    case DType::kF16:
      return at::kHalf;
  }
  return at::kFloat;
}

}  // namespace

at::Tensor attend(const attention::Queries& queries, const at::Tensor& k, const at::Tensor& v,
                  const attention::Sequences& sequences, const BlockPattern& pattern,
                  double scale) {
  return attend_all(queries, k, v, sequences, pattern, scale, WithLse::kNo).out;
}

std::pair<at::Tensor, at::Tensor> attend_with_lse(const attention::Queries& queries,
                                                  const at::Tensor& k, const at::Tensor& v,
                                                  const attention::Sequences& sequences,
                                                  const BlockPattern& pattern, double scale) {
  const Result result = attend_all(queries, k, v, sequences, pattern, scale, WithLse::kYes);
  return {result.out, result.lse};
}

at::Tensor attend_paged(const attention::Queries& queries, const PagedKvView& kv,
                        std::int64_t num_sequences, std::int64_t num_key_heads, std::int64_t v_size,
                        const BlockPattern& pattern, double scale, AttendFn attend_rows) {
  const at::Tensor& q = queries.q;
  LOZA_CHECK(q.scalar_type() == scalar_type(kv.dtype), dtype_name(kv.dtype));
  const at::NoGradGuard no_grad;
  const std::int64_t q_len = num_sequences == 0 ? 0 : q.size(0) / num_sequences;
  at::Tensor out = at::zeros({q.size(0), q.size(1), v_size}, q.options());
  for (std::int64_t b = 0; b < num_sequences; ++b) {
    // New tokens before the sequence's beginning see nothing.
    const std::int64_t length = kv.lengths[b], num_real = std::min(q_len, length);
    if (num_real == 0) continue;
    const attention::VisiblePast past = attention::visible_past(pattern, length - num_real);
    std::vector<attention::RowRun> runs;
    attention::add_runs(kv, b, 0, past.kept, runs);
    attention::add_runs(kv, b, past.recent_begin, length, runs);
    const at::Tensor rows = attention::all_rows(kv, runs, q.options())
                                .index_select(0, attention::row_indices(runs, q.device()));
    const auto heads = [&](std::int64_t offset, std::int64_t head_stride, std::int64_t size) {
      return rows.as_strided({rows.size(0), num_key_heads, size}, {rows.stride(0), head_stride, 1},
                             offset);
    };
    attention::Sequences sequence;
    sequence.q_offsets = {0, num_real};
    sequence.k_offsets = {0, rows.size(0)};
    sequence.kept_prefix = {past.kept};
    sequence.skipped = {past.recent_begin - past.kept};
    const Slice real((b + 1) * q_len - num_real, (b + 1) * q_len);
    const at::Tensor sink_q =
        queries.sink_q.defined() ? queries.sink_q.index({real}) : queries.sink_q;
    out.index_put_(
        {real},
        attend_rows({q.index({real}), sink_q}, heads(0, kv.k_head_stride, q.size(2)),
                    heads(kv.v_offset, kv.v_head_stride, v_size), sequence, pattern, scale));
  }
  return out;
}

}  // namespace loza::torch_ops
