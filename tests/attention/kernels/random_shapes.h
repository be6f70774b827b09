#pragma once

#include <algorithm>
#include <cstdint>

#include "tests/attention/kernels/forward_case.h"
#include "tests/attention/kernels/operand.h"
#include "tests/attention/kernels/paged_case.h"

// Shapes that nobody thought of. A Source has below(n), a number of [0, n): a generator's, or the
// next bytes of a fuzzer. What a case costs by definition is bounded.
namespace loza::testing {

template <typename Source>
class RandomShapes {
 public:
  explicit RandomShapes(Source& source) : source_(source) {}

  Shape prefill() {
    Shape shape;
    shape.dtype = dtype();
    shape.pattern = pattern();
    shape.layout = layout();
    choose_sizes(shape.qk_size, shape.v_size);
    std::int64_t num_pairs = 0;
    for (std::int64_t b = between(1, 3); b > 0; --b) {
      Lengths lengths;
      lengths.k_len = length(shape.pattern.block_size);
      // A whole prompt, a chunk of one, or more queries than keys.
      const std::int64_t kind = source_.below(8);
      lengths.q_len = kind < 4   ? lengths.k_len
                      : kind < 7 ? source_.below(lengths.k_len + 1)
                                 : lengths.k_len + between(1, 5);
      shape.sequences.push_back(lengths);
      num_pairs += lengths.q_len * lengths.k_len;
    }
    choose_heads(num_pairs * (shape.qk_size + shape.v_size), shape.heads, shape.key_heads);
    return shape;
  }

  PagedShape decode() {
    PagedShape shape;
    shape.dtype = dtype();
    shape.pattern = pattern();
    shape.layout = layout();
    choose_sizes(shape.qk_size, shape.v_size);
    shape.q_len = between(1, 8);
    const std::int64_t block = shape.pattern.block_size;
    do {
      shape.page_len = between(1, block);
    } while (block % shape.page_len != 0);
    std::int64_t num_keys = 0;
    for (std::int64_t b = between(1, 3); b > 0; --b) {
      shape.lengths.push_back(length(block) + (source_.below(8) == 0 ? 600 : 0));
      num_keys += shape.lengths.back();
    }
    if (!shape.pattern.is_full() && source_.below(2) == 0) shape.storage = Storage::kRing;
    choose_heads(num_keys * shape.q_len * (shape.qk_size + shape.v_size), shape.heads,
                 shape.key_heads);
    if (shape.v_size <= shape.qk_size && source_.below(3) == 0) {
      shape.row_layout = RowLayout::kLatent;
      shape.heads /= shape.key_heads;
      shape.key_heads = 1;
    }
    return shape;
  }

 private:
  // Multiply-adds of a case, about.
  static constexpr std::int64_t kMaxWork = 600'000;

  std::int64_t between(std::int64_t first, std::int64_t last) {
    return first + source_.below(last - first + 1);
  }
  DType dtype() { return source_.below(2) == 0 ? DType::kBF16 : DType::kF32; }
  Operand::Layout layout() {
    return source_.below(2) == 0 ? Operand::Layout::kPacked : Operand::Layout::kGaps;
  }
  BlockPattern pattern() {
    const std::int64_t blocks[] = {1, 3, 8, 16, 24, 32, 48, 128};
    const std::int64_t block = source_.below(3) == 0 ? between(1, 40) : blocks[source_.below(8)];
    if (source_.below(3) == 0) return BlockPattern::full(block);
    return {block, source_.below(4), between(1, 8)};
  }
  // 0, 1, a number of blocks give or take one, or anything.
  std::int64_t length(std::int64_t block) {
    const std::int64_t kind = source_.below(8);
    if (kind == 0) return source_.below(2);
    if (kind == 1) return between(1, 300);
    const std::int64_t most = std::max<std::int64_t>(1, 300 / block);
    return std::max<std::int64_t>(0, between(1, most) * block + between(-1, 1));
  }
  // Whole vectors, those of models, or anything.
  void choose_sizes(std::int64_t& qk_size, std::int64_t& v_size) {
    const std::int64_t whole[] = {16, 32, 64, 96, 128, 192, 576};
    const auto one = [&] {
      return source_.below(2) == 0 ? whole[source_.below(6)] : between(1, 130);
    };
    qk_size = one();
    v_size = one();
    if (source_.below(16) == 0) {
      qk_size = 576;
      v_size = 512;
    }
  }
  // 1 to 128 query heads, of which as many share a key head as the source says.
  void choose_heads(std::int64_t work_of_head, std::int64_t& heads, std::int64_t& key_heads) {
    const std::int64_t most =
        std::clamp<std::int64_t>(kMaxWork / std::max<std::int64_t>(work_of_head, 1), 1, 128);
    key_heads = between(1, std::min<std::int64_t>(most, 8));
    heads = key_heads * between(1, most / key_heads);
  }

  Source& source_;
};

}  // namespace loza::testing
