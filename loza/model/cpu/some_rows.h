#pragma once

#include <cstdint>

#include "loza/model/cpu/int8_weight.h"

// The product of some bf16 rows, more than few and fewer than many: the tokens that one expert
// gets of a chunk, or a short prompt. libtorch lays a weight out anew for every product, which
// takes as long as the product itself where it meets few rows; here the weight is read in place.
namespace loza::model_cpu {

// Up to so many rows; above libtorch is as fast.
inline constexpr std::int64_t kSomeRows = 64;

// Whether the current instruction set multiplies pairs of bf16.
bool has_bf16_products();

// x [M, K] times W [N, K] transposed, M <= kSomeRows, both bf16; accumulated in fp32. On several
// threads; a row's numbers depend on neither the other rows nor the threads.
// REQUIRES: has_bf16_products().
void multiply_some_rows(const RowsView& x, const RowsView& weight, const ProductOut& out);

}  // namespace loza::model_cpu
