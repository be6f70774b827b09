#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "loza/base/dtype.h"
#include "loza/base/huge_pages.h"
#include "loza/model/cpu/int8_kernels.h"

namespace loza::model_cpu {

// Rows of numbers in memory, one behind the other: fp32 or bf16.
struct RowsView {
  const void* data = nullptr;
  std::int64_t count = 0;
  std::int64_t size = 0;
  std::int64_t stride = 0;  // elements between rows
  DType dtype = DType::kF32;

  const void* row(std::int64_t index) const {
    return static_cast<const char*>(data) +
           index * stride * static_cast<std::int64_t>(element_bytes(dtype));
  }
};

// A weight W [N, K] in int8, one scale for 32 numbers along K: 8.5 bits a number, in the order in
// which the kernels read them. Rows that meet it are quantised alike, in groups of 32: integers
// are what processors multiply fastest, and groups keep outliers among themselves.
class Int8Weight {
 public:
  Int8Weight() = default;
  // Of a weight [N, K]; the integers lie in `memory`.
  Int8Weight(const RowsView& weight, HugePageArena& memory);

  // x [M, K] times W transposed. On several threads; a row's numbers depend on neither the other
  // rows nor the threads. A number of x or W that is not finite makes the outputs that it reaches
  // NaN.
  // With two terms (Int8Rows) rows keep 15 bits, at twice the work and no more bytes.
  void multiply(const RowsView& x, std::int64_t num_terms, const ProductOut& out) const;

  // The same for rows that meet different weights of one shape, group after group: the first
  // `count` rows the first group's weight, and so on.
  struct Group {
    const Int8Weight* weight = nullptr;
    std::int64_t count = 0;
  };
  static void multiply(const RowsView& x, const std::vector<Group>& groups, std::int64_t num_terms,
                       const ProductOut& out);

  // What the integers stand for: row n of W, [K] fp32.
  void dequantize_row(std::int64_t n, float* row) const;

  std::int64_t num_outputs() const { return num_outputs_; }
  std::int64_t size() const { return size_; }  // K
  std::int64_t bytes() const { return num_panels() * panel_bytes(); }

 private:
  std::int64_t num_groups() const { return (size_ + kGroup - 1) / kGroup; }
  std::int64_t num_panels() const { return (num_outputs_ + kPanelOutputs - 1) / kPanelOutputs; }
  std::int64_t panel_bytes() const { return num_groups() * kGroupBytes; }
  void pack_panel(const RowsView& weight, std::int64_t panel);
  void multiply_panel(const Int8Rows& rows, std::int64_t rows_begin, std::int64_t rows_end,
                      std::int64_t panel, const ProductOut& out) const;

  std::int64_t num_outputs_ = 0, size_ = 0;
  std::shared_ptr<std::uint8_t> panels_;
};

}  // namespace loza::model_cpu
