// torch.ops.loza.*: the room's attention for Python programs.
//
//   torch.ops.load_library("build/libloza_torch_ops.so")
//   out, lse = torch.ops.loza.attend(q, k, v, [0, 1000], [0, 1000], [128, 1, 7], 192 ** -0.5)
//
// Shapes are those of loza/attention/attention.h; a pattern is [block_size, sink_blocks,
// recent_blocks], full attention [128, 0, 1 << 24]. No gradients. On CUDA all but attend's host
// lists may be captured in a CUDA graph where the kernels for Hopper take the call.
#include <torch/library.h>
#include <torch/torch.h>

#include <optional>
#include <tuple>

#include "loza/attention/attention.h"
#include "loza/attention/on_hopper.h"
#include "loza/base/check.h"

namespace loza::attention {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
using OutAndLse = std::tuple<at::Tensor, at::Tensor>;

BlockPattern pattern_of(at::IntArrayRef pattern) {
  LOZA_CHECK(pattern.size() == 3 && pattern[0] >= 1 && pattern[1] >= 0 && pattern[2] >= 1,
             "a pattern is [block_size, sink_blocks, recent_blocks], got", c10::str(pattern));
  return {pattern[0], pattern[1], pattern[2]};
}

// The rows' lse of nothing is -inf, and no row is left unwritten: sizes are all there is to say.
OutAndLse empty_out_and_lse(const at::Tensor& q, const c10::SymInt& v_size) {
  return {at::empty_symint({q.sym_size(0), q.sym_size(1), v_size}, q.options()),
          at::empty_symint({q.sym_size(0), q.sym_size(1)}, q.options().dtype(at::kFloat))};
}

OutAndLse attend_op(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                    at::IntArrayRef q_offsets, at::IntArrayRef k_offsets, at::IntArrayRef pattern,
                    double scale, const OptionalTensor& sink_q) {
  Sequences sequences;
  sequences.q_offsets = q_offsets.vec();
  sequences.k_offsets = k_offsets.vec();
  return attend_with_lse({q, sink_q.value_or(at::Tensor())}, k, v, sequences, pattern_of(pattern),
                         scale);
}

OutAndLse attend_meta(const at::Tensor& q, const at::Tensor&, const at::Tensor& v, at::IntArrayRef,
                      at::IntArrayRef, at::IntArrayRef, double, const OptionalTensor&) {
  return empty_out_and_lse(q, v.sym_size(2));
}

PagedKvView view_of_pages(const at::Tensor& q, const at::Tensor& pages,
                          const at::Tensor& page_table, const at::Tensor& lengths,
                          std::int64_t v_size, std::int64_t v_offset, std::int64_t sink_pages,
                          std::int64_t ring_pages) {
  LOZA_CHECK(pages.dim() == 3 && pages.stride(2) == 1, "pages are [pages, page_len, row]",
             c10::str(pages.sizes()));
  LOZA_CHECK(pages.scalar_type() == q.scalar_type() && pages.device() == q.device());
  LOZA_CHECK(page_table.dim() == 2 && page_table.is_contiguous() &&
                 page_table.scalar_type() == at::kInt && page_table.device() == q.device(),
             "page_table is [B, slots] int32", c10::str(page_table.sizes()));
  LOZA_CHECK(lengths.dim() == 1 && lengths.is_contiguous() && lengths.scalar_type() == at::kLong &&
                 lengths.device() == q.device() && lengths.size(0) == page_table.size(0),
             "lengths is [B] int64", c10::str(lengths.sizes()));
  PagedKvView kv;
  kv.dtype = dtype_of(pages.scalar_type());
  kv.pages = pages.data_ptr();
  kv.page_stride = pages.stride(0);
  kv.row_stride = pages.stride(1);
  kv.page_len = pages.size(1);
  kv.k_head_stride = q.size(2);
  kv.v_offset = v_offset;
  kv.v_head_stride = v_offset == 0 ? 0 : v_size;
  kv.page_table = page_table.data_ptr<std::int32_t>();
  kv.table_stride = page_table.size(1);
  kv.lengths = lengths.data_ptr<std::int64_t>();
  kv.sink_pages = sink_pages;
  kv.ring_pages = ring_pages;
  return kv;
}

at::Tensor attend_paged_op(const at::Tensor& q, const at::Tensor& pages,
                           const at::Tensor& page_table, const at::Tensor& lengths,
                           std::int64_t num_key_heads, std::int64_t v_size, std::int64_t v_offset,
                           at::IntArrayRef pattern, double scale, std::int64_t max_length,
                           std::int64_t sink_pages, std::int64_t ring_pages,
                           const OptionalTensor& sink_q) {
  const Queries queries(q, sink_q.value_or(at::Tensor()));
  const BlockPattern of = pattern_of(pattern);
  const std::int64_t batch = lengths.size(0);
  const auto view = [&](const at::Tensor& table, const at::Tensor& its_lengths) {
    PagedKvView kv =
        view_of_pages(q, pages, page_table, lengths, v_size, v_offset, sink_pages, ring_pages);
    kv.page_table = table.data_ptr<std::int32_t>();
    kv.lengths = its_lengths.data_ptr<std::int64_t>();
    return kv;
  };
  const PagedKvView kv = view(page_table, lengths);
  if (q.is_cpu()) return attend_paged(queries, kv, batch, num_key_heads, v_size, of, scale);
  if (on_hopper::check_paged(queries, kv, batch, num_key_heads, v_size, of, scale).ok()) {
    return on_hopper::attend_paged_on_device(queries, kv, batch, num_key_heads, v_size, of, scale,
                                             max_length, /*stable_prefix=*/false);
  }
  const at::Tensor table_on_host = page_table.cpu(), lengths_on_host = lengths.cpu();
  return attend_paged(queries, view(table_on_host, lengths_on_host), batch, num_key_heads, v_size,
                      of, scale);
}

at::Tensor attend_paged_meta(const at::Tensor& q, const at::Tensor&, const at::Tensor&,
                             const at::Tensor&, std::int64_t, std::int64_t v_size, std::int64_t,
                             at::IntArrayRef, double, std::int64_t, std::int64_t, std::int64_t,
                             const OptionalTensor&) {
  return at::empty_symint({q.sym_size(0), q.sym_size(1), v_size}, q.options());
}

OutAndLse merge_op(const at::Tensor& out_a, const at::Tensor& lse_a, const at::Tensor& out_b,
                   const at::Tensor& lse_b) {
  return merge(out_a, lse_a, out_b, lse_b);
}

OutAndLse merge_meta(const at::Tensor& out_a, const at::Tensor&, const at::Tensor&,
                     const at::Tensor&) {
  return empty_out_and_lse(out_a, out_a.sym_size(2));
}

}  // namespace

TORCH_LIBRARY(loza, library) {
  library.def(
      "attend(Tensor q, Tensor k, Tensor v, int[] q_offsets, int[] k_offsets, int[] pattern, "
      "float scale, Tensor? sink_q=None) -> (Tensor out, Tensor lse)");
  library.def(
      "attend_paged(Tensor q, Tensor pages, Tensor page_table, Tensor lengths, int num_key_heads, "
      "int v_size, int v_offset, int[] pattern, float scale, int max_length, int sink_pages=0, "
      "int ring_pages=0, Tensor? sink_q=None) -> Tensor");
  library.def(
      "merge(Tensor out_a, Tensor lse_a, Tensor out_b, Tensor lse_b) -> (Tensor out, Tensor lse)");
}

TORCH_LIBRARY_IMPL(loza, CPU, library) {
  library.impl("attend", attend_op);
  library.impl("attend_paged", attend_paged_op);
  library.impl("merge", merge_op);
}

TORCH_LIBRARY_IMPL(loza, CUDA, library) {
  library.impl("attend", attend_op);
  library.impl("attend_paged", attend_paged_op);
  library.impl("merge", merge_op);
}

TORCH_LIBRARY_IMPL(loza, Meta, library) {
  library.impl("attend", attend_meta);
  library.impl("attend_paged", attend_paged_meta);
  library.impl("merge", merge_meta);
}

}  // namespace loza::attention
