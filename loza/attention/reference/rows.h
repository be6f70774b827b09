#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "loza/attention/params.h"
#include "loza/base/dtype.h"

// Elements of any dtype as doubles, for the reference.
namespace loza::reference {

double load_element(DType dtype, const void* data, std::int64_t idx);
// Rounds to the dtype.
void store_element(DType dtype, void* data, std::int64_t idx, double value);

// Rows [begin, end) of one head of a [tokens, heads, size] operand, as [end - begin, size].
std::vector<double> load_head(const TensorView& view, DType dtype, std::int64_t head_idx,
                              std::int64_t begin, std::int64_t end, std::int64_t size);

// The inverse.
void store_head(const std::vector<double>& rows, const TensorView& view, DType dtype,
                std::int64_t head_idx, std::int64_t begin, std::int64_t end, std::int64_t size);

}  // namespace loza::reference
