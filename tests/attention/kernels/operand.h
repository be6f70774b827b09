#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "loza/attention/params.h"
#include "loza/attention/reference/rows.h"
#include "loza/base/random.h"

namespace loza::testing {

// A [tokens, heads, size] tensor in memory that begins as NaN, with gaps or without.
class Operand {
 public:
  enum class Layout {
    kPacked,
    kGaps,  // odd strides, and an odd first address
  };

  Operand(DType dtype, std::int64_t tokens, std::int64_t heads, std::int64_t size, Layout layout)
      : dtype_(dtype), tokens_(tokens), heads_(heads), size_(size) {
    const bool gaps = layout == Layout::kGaps;
    first_ = gaps ? 3 : 0;
    head_stride_ = size + (gaps ? 5 : 0);
    token_stride_ = heads * head_stride_ + (gaps ? 7 : 0);
    bytes_.resize(static_cast<std::size_t>(first_ + tokens * token_stride_) * element_bytes(dtype));
    poison();
  }

  void poison() {
    const auto count = static_cast<std::int64_t>(bytes_.size() / element_bytes(dtype_));
    for (std::int64_t i = 0; i < count; ++i) {
      reference::store_element(dtype_, bytes_.data(), i, std::numeric_limits<double>::quiet_NaN());
    }
    poisoned_ = bytes_;
  }

  // Roughly normal numbers of variance 1.
  void fill(Random& random) {
    for (std::int64_t i = 0; i < tokens_ * heads_ * size_; ++i) {
      set(i, (random.uniform() + random.uniform() + random.uniform() - 1.5) * 2);
    }
  }
  void fill_token(std::int64_t token, double value) {
    for (std::int64_t i = 0; i < heads_ * size_; ++i) set(token * heads_ * size_ + i, value);
  }

  // Element i of the tensor in row-major order.
  double get(std::int64_t i) const {
    return reference::load_element(dtype_, bytes_.data(), place(i));
  }
  void set(std::int64_t i, double value) {
    reference::store_element(dtype_, bytes_.data(), place(i), value);
  }
  std::vector<double> values() const {
    std::vector<double> values;
    for (std::int64_t i = 0; i < tokens_ * heads_ * size_; ++i) values.push_back(get(i));
    return values;
  }
  // Takes the elements of a tensor of the same shape.
  void copy_from(const Operand& other) {
    for (std::int64_t i = 0; i < tokens_ * heads_ * size_; ++i) set(i, other.get(i));
  }
  // Bits of the elements, for comparisons that allow no difference.
  std::vector<std::uint64_t> bits() const {
    std::vector<std::uint64_t> bits;
    for (std::int64_t i = 0; i < tokens_ * heads_ * size_; ++i) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes_.data() + place(i) * bytes(), static_cast<std::size_t>(bytes()));
      bits.push_back(word);
    }
    return bits;
  }
  // Whether nothing outside the tensor was written.
  bool gaps_are_untouched() const {
    Operand inside = *this;
    for (std::int64_t i = 0; i < tokens_ * heads_ * size_; ++i) {
      std::memcpy(inside.bytes_.data() + place(i) * bytes(), poisoned_.data() + place(i) * bytes(),
                  static_cast<std::size_t>(bytes()));
    }
    return inside.bytes_ == poisoned_;
  }

  TensorView view() { return {bytes_.data() + first_ * bytes(), token_stride_, head_stride_}; }
  std::int64_t tokens() const { return tokens_; }
  std::int64_t row_size() const { return heads_ * size_; }

 private:
  std::int64_t bytes() const { return static_cast<std::int64_t>(element_bytes(dtype_)); }
  std::int64_t place(std::int64_t i) const {
    return first_ + i / (heads_ * size_) * token_stride_ + i / size_ % heads_ * head_stride_ +
           i % size_;
  }

  DType dtype_;
  std::int64_t tokens_, heads_, size_;
  std::int64_t first_ = 0, token_stride_ = 0, head_stride_ = 0;
  std::vector<std::byte> bytes_, poisoned_;
};

}  // namespace loza::testing
