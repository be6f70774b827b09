#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "loza/attention/params.h"
#include "loza/attention/reference/rows.h"
#include "loza/attention/reference/visible.h"
#include "loza/base/random.h"
#include "tests/attention/kernels/forward_case.h"
#include "tests/attention/kernels/operand.h"

namespace loza::testing {

enum class RowLayout {
  kHeads,   // G keys, then G values
  kLatent,  // one head; the value is the beginning of the key
};
enum class Storage { kPages, kRing };

// What makes a decode case.
struct PagedShape {
  DType dtype = DType::kF32;
  BlockPattern pattern;
  std::vector<std::int64_t> lengths;
  std::int64_t q_len = 1;
  std::int64_t heads = 1, key_heads = 1, qk_size = 64, v_size = 64;
  std::int64_t page_len = 16;
  RowLayout row_layout = RowLayout::kHeads;
  Storage storage = Storage::kPages;
  Operand::Layout layout = Operand::Layout::kPacked;

  std::string name() const {
    std::string all;
    for (const std::int64_t length : lengths) all += fmt::format("_{}", length);
    const std::string sees =
        pattern.is_full() ? "full"
                          : fmt::format("s{}r{}", pattern.sink_blocks, pattern.recent_blocks);
    return fmt::format("{}_b{}{}_len{}_q{}_h{}g{}_{}x{}_page{}{}{}{}", dtype_name(dtype),
                       pattern.block_size, sees, all, q_len, heads, key_heads, qk_size, v_size,
                       page_len, row_layout == RowLayout::kLatent ? "_latent" : "",
                       storage == Storage::kRing ? "_ring" : "",
                       layout == Operand::Layout::kGaps ? "_gaps" : "");
  }
};

// Pages in random order. Everything that no query sees is hostile: unused pages, unused rows
// and invisible blocks hold NaN, and table entries of invisible pages point nowhere.
struct PagedCase {
  static constexpr std::int32_t kNowhere = 0x7ffffff0;

  PagedShape shape;
  Operand q, out;
  std::vector<float> lse;
  std::vector<std::byte> pages;
  std::vector<std::int32_t> table;
  PagedKvView kv;

  PagedCase(const PagedShape& of, std::uint64_t seed)
      : shape(of),
        q(of.dtype, num_tokens(of), of.heads, of.qk_size, of.layout),
        out(of.dtype, num_tokens(of), of.heads, of.v_size, of.layout) {
    Random random(seed);
    q.fill(random);
    poison_outputs();
    lay_out_rows();
    fill_pages(random);
  }

  void poison_outputs() {
    out.poison();
    lse.assign(static_cast<std::size_t>(q.tokens() * shape.heads), std::nanf(""));
  }

  DecodeParams params() {
    DecodeParams params;
    params.num_sequences = num_sequences();
    params.q_len = shape.q_len;
    params.num_heads = shape.heads;
    params.num_key_heads = shape.key_heads;
    params.qk_size = shape.qk_size;
    params.v_size = shape.v_size;
    params.pattern = shape.pattern;
    params.scale = 1 / std::sqrt(static_cast<double>(shape.qk_size));
    params.q = q.view();
    params.kv = kv;
    params.kv.pages = pages.data();
    params.kv.page_table = table.data();
    params.kv.lengths = shape.lengths.data();
    params.out = out.view();
    params.lse = lse.data();
    return params;
  }

  // The number that belongs at element `i` of the row of a position, in every storage.
  static double element(std::int64_t sequence_idx, std::int64_t pos, std::int64_t i) {
    Random random(static_cast<std::uint64_t>((sequence_idx * 100003 + pos) * 1009 + i));
    return (random.uniform() + random.uniform() - 1) * 2;
  }

  // What is stored for a position that is seen.
  double stored(std::int64_t sequence_idx, std::int64_t pos, std::int64_t i) const {
    const std::int32_t page = table[static_cast<std::size_t>(sequence_idx * kv.table_stride +
                                                             page_slot(kv, pos / kv.page_len))];
    return reference::load_element(shape.dtype, pages.data(),
                                   page * kv.page_stride + pos % kv.page_len * kv.row_stride + i);
  }

  bool is_seen(std::int64_t sequence_idx, std::int64_t pos) const {
    const std::int64_t length = shape.lengths[static_cast<std::size_t>(sequence_idx)];
    for (std::int64_t query = std::max<std::int64_t>(0, length - shape.q_len); query < length;
         ++query) {
      if (reference::is_visible(shape.pattern, query, pos)) return true;
    }
    return false;
  }

  std::int64_t num_sequences() const { return static_cast<std::int64_t>(shape.lengths.size()); }
  std::vector<double> lse_values() const { return {lse.begin(), lse.end()}; }

 private:
  static std::int64_t num_tokens(const PagedShape& of) {
    return static_cast<std::int64_t>(of.lengths.size()) * of.q_len;
  }

  void lay_out_rows() {
    const std::int64_t gap = shape.layout == Operand::Layout::kGaps ? 3 : 0;
    kv.dtype = shape.dtype;
    kv.page_len = shape.page_len;
    kv.k_head_stride = shape.qk_size + gap;
    if (shape.row_layout == RowLayout::kHeads) {
      kv.v_offset = shape.key_heads * kv.k_head_stride;
      kv.v_head_stride = shape.v_size + gap;
    }
    kv.row_stride = shape.row_layout == RowLayout::kHeads
                        ? kv.v_offset + shape.key_heads * kv.v_head_stride
                        : shape.qk_size + gap;
    kv.page_stride = kv.page_len * kv.row_stride + gap;
    const std::int64_t pages_per_block = shape.pattern.block_size / kv.page_len;
    if (shape.storage == Storage::kRing) {
      kv.sink_pages = shape.pattern.sink_blocks * pages_per_block;
      kv.ring_pages = num_ring_blocks(shape.pattern, shape.q_len) * pages_per_block;
    }
    const std::int64_t longest = std::ranges::max(shape.lengths);
    kv.table_stride =
        2 + (shape.storage == Storage::kRing ? kv.sink_pages + kv.ring_pages
                                             : (longest + kv.page_len - 1) / kv.page_len);
  }

  void fill_pages(Random& random) {
    const std::int64_t num_pages = num_sequences() * kv.table_stride;
    std::vector<std::int32_t> order(static_cast<std::size_t>(num_pages));
    std::iota(order.begin(), order.end(), 0);
    random.shuffle(order);
    table.assign(order.size(), kNowhere);
    const std::int64_t num_elements = num_pages * kv.page_stride;
    pages.resize(static_cast<std::size_t>(num_elements) * element_bytes(shape.dtype));
    for (std::int64_t i = 0; i < num_elements; ++i) {
      reference::store_element(shape.dtype, pages.data(), i,
                               std::numeric_limits<double>::quiet_NaN());
    }
    for (std::int64_t b = 0; b < num_sequences(); ++b) {
      for (std::int64_t pos = 0; pos < shape.lengths[static_cast<std::size_t>(b)]; ++pos) {
        if (!is_seen(b, pos)) continue;
        const auto entry =
            static_cast<std::size_t>(b * kv.table_stride + page_slot(kv, pos / kv.page_len));
        table[entry] = order[entry];
        const std::int64_t row = table[entry] * kv.page_stride + pos % kv.page_len * kv.row_stride;
        for (std::int64_t i = 0; i < kv.row_stride; ++i) {
          reference::store_element(shape.dtype, pages.data(), row + i, element(b, pos, i));
        }
      }
    }
  }
};

// The contiguous form of a paged case in a dtype, with zeros where nothing is seen.
inline ForwardCase contiguous(const PagedCase& paged, DType dtype) {
  const PagedShape& shape = paged.shape;
  std::vector<Lengths> sequences;
  for (const std::int64_t length : shape.lengths) sequences.push_back({shape.q_len, length});
  ForwardCase c({dtype, shape.pattern, sequences, shape.heads, shape.key_heads, shape.qk_size,
                 shape.v_size, Operand::Layout::kPacked},
                0);
  c.q.copy_from(paged.q);
  for (std::int64_t b = 0; b < paged.num_sequences(); ++b) {
    for (std::int64_t pos = 0; pos < shape.lengths[static_cast<std::size_t>(b)]; ++pos) {
      const std::int64_t token = c.k_offsets[static_cast<std::size_t>(b)] + pos;
      const bool is_seen = paged.is_seen(b, pos);
      const auto stored = [&](std::int64_t i) { return is_seen ? paged.stored(b, pos, i) : 0; };
      for (std::int64_t g = 0; g < shape.key_heads; ++g) {
        for (std::int64_t i = 0; i < shape.qk_size; ++i) {
          c.k.set((token * shape.key_heads + g) * shape.qk_size + i,
                  stored(g * paged.kv.k_head_stride + i));
        }
        for (std::int64_t i = 0; i < shape.v_size; ++i) {
          c.v.set((token * shape.key_heads + g) * shape.v_size + i,
                  stored(paged.kv.v_offset + g * paged.kv.v_head_stride + i));
        }
      }
    }
  }
  return c;
}

}  // namespace loza::testing
