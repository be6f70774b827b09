#pragma once

#include <cstdint>
#include <vector>

#include "loza/model/cpu/int8_weight.h"
#include "loza/model/cpu/row_kernels.h"

// The product of few rows with a weight that is too large for the caches: the weight is read once,
// in place, and the time is that of reading it.
namespace loza::model_cpu {

// x [M, K] times W [N, K] transposed, both fp32 or bf16 (alike), M <= kFewRows; accumulated in
// fp32. On several threads; a row's numbers depend on neither the other rows nor the threads.
void multiply_few_rows(const RowsView& x, const RowsView& weight, const ProductOut& out);

// Several of them, which share the threads.
struct RowsProduct {
  RowsView x, weight;
  ProductOut out;
};
void multiply_few_rows(const std::vector<RowsProduct>& products);

}  // namespace loza::model_cpu
