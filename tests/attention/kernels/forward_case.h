#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "loza/attention/params.h"
#include "loza/base/random.h"
#include "tests/attention/kernels/operand.h"

namespace loza::testing {

struct Lengths {
  std::int64_t q_len = 0, k_len = 0;
};

// What makes a forward or backward case; everything else follows from the seed.
struct Shape {
  DType dtype = DType::kF32;
  BlockPattern pattern;
  std::vector<Lengths> sequences;
  std::int64_t heads = 1, key_heads = 1, qk_size = 64, v_size = 64;
  Operand::Layout layout = Operand::Layout::kPacked;

  // For the names of tests: letters, digits and underscores.
  std::string name() const {
    std::string lengths;
    for (const Lengths& l : sequences) {
      lengths += l.q_len == l.k_len ? fmt::format("_{}", l.k_len)
                                    : fmt::format("_{}of{}", l.q_len, l.k_len);
    }
    const std::string sees =
        pattern.is_full() ? "full"
                          : fmt::format("s{}r{}", pattern.sink_blocks, pattern.recent_blocks);
    return fmt::format("{}_b{}{}_len{}_h{}g{}_{}x{}{}", dtype_name(dtype), pattern.block_size, sees,
                       lengths, heads, key_heads, qk_size, v_size,
                       layout == Operand::Layout::kGaps ? "_gaps" : "");
  }
};

inline std::int64_t sum_of(const std::vector<Lengths>& sequences, std::int64_t Lengths::*member) {
  std::int64_t sum = 0;
  for (const Lengths& l : sequences) sum += l.*member;
  return sum;
}

// Tensors and parameters of a shape, filled from a seed; outputs hold NaN.
struct ForwardCase {
  Shape shape;
  std::vector<std::int64_t> q_offsets{0}, k_offsets{0};
  Operand q, k, v, out;
  std::vector<float> lse;

  ForwardCase(const Shape& of, std::uint64_t seed)
      : shape(of),
        q(of.dtype, sum_of(of.sequences, &Lengths::q_len), of.heads, of.qk_size, of.layout),
        k(of.dtype, sum_of(of.sequences, &Lengths::k_len), of.key_heads, of.qk_size, of.layout),
        v(of.dtype, sum_of(of.sequences, &Lengths::k_len), of.key_heads, of.v_size, of.layout),
        out(of.dtype, q.tokens(), of.heads, of.v_size, of.layout) {
    for (const Lengths& l : of.sequences) {
      q_offsets.push_back(q_offsets.back() + l.q_len);
      k_offsets.push_back(k_offsets.back() + l.k_len);
    }
    Random random(seed);
    for (Operand* operand : {&q, &k, &v}) operand->fill(random);
    poison_outputs();
  }

  // The same numbers in fp64: what the reference computes the truth from.
  ForwardCase in_fp64() const {
    Shape exact = shape;
    exact.dtype = DType::kF64;
    ForwardCase c(exact, 0);
    c.q.copy_from(q);
    c.k.copy_from(k);
    c.v.copy_from(v);
    return c;
  }

  void poison_outputs() {
    out.poison();
    lse.assign(static_cast<std::size_t>(q.tokens() * shape.heads), std::nanf(""));
  }

  ForwardParams params() {
    ForwardParams params;
    params.dtype = shape.dtype;
    params.num_sequences = static_cast<std::int64_t>(shape.sequences.size());
    params.num_heads = shape.heads;
    params.num_key_heads = shape.key_heads;
    params.qk_size = shape.qk_size;
    params.v_size = shape.v_size;
    params.q_offsets = q_offsets.data();
    params.k_offsets = k_offsets.data();
    params.pattern = shape.pattern;
    params.scale = 1 / std::sqrt(static_cast<double>(shape.qk_size));
    params.q = q.view();
    params.k = k.view();
    params.v = v.view();
    params.out = out.view();
    params.lse = lse.data();
    return params;
  }

  std::vector<double> lse_values() const { return {lse.begin(), lse.end()}; }
};

// The patterns of the numeric cases, on blocks of this size.
inline std::vector<BlockPattern> patterns_of(std::int64_t block_size) {
  std::vector<BlockPattern> patterns{BlockPattern::full(block_size)};
  for (const auto& [sink, recent] : {std::pair{1, 7}, {1, 1}, {0, 4}, {2, 2}}) {
    patterns.push_back({block_size, sink, recent});
  }
  return patterns;
}

// Heads, key heads, query and value sizes.
struct Heads {
  std::int64_t heads, key_heads, qk_size, v_size;
};

inline Shape with_heads(Shape shape, const Heads& heads) {
  shape.heads = heads.heads;
  shape.key_heads = heads.key_heads;
  shape.qk_size = heads.qk_size;
  shape.v_size = heads.v_size;
  return shape;
}

// Names a test after its shape.
inline constexpr auto shape_name = [](const auto& info) {
  return info.param.name() + "_" + std::to_string(info.index);
};

}  // namespace loza::testing
