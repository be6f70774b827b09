#pragma once

#include <cstdint>

#include "loza/model/cpu/int8_weight.h"

// What AVX-512 BF16 does of some_rows.h.
namespace loza::model_cpu {

inline constexpr std::int64_t kBf16Outputs = 16;  // outputs of a block

// Outputs [begin, end), at most kBf16Outputs, of all rows of x, at most kSomeRows.
void multiply_bf16_block(const RowsView& x, const RowsView& weight, std::int64_t begin,
                         std::int64_t end, const ProductOut& out);

}  // namespace loza::model_cpu
