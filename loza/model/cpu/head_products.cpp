#include "loza/model/cpu/head_products.h"

#include <algorithm>

#include "loza/attention/cpu/buffer.h"
#include "loza/attention/cpu/row_address.h"
#include "loza/base/parallel_for.h"
#include "loza/model/cpu/row_kernels.h"

namespace loza::model_cpu {
namespace {

using cpu::row_address;

// Tokens [begin, end) of a head, at most kFewRows.
void multiply_by_outputs(const HeadProducts& p, std::int64_t head, const void* matrix,
                         std::int64_t begin, std::int64_t end) {
  thread_local cpu::Buffer<float> scratch;
  float* const wide = scratch.grow((end - begin) * p.num_inputs);
  for (std::int64_t token = begin; token < end; ++token) {
    row_kernels().arrange(row_address(p.x, p.dtype, token, head), p.num_inputs, p.dtype,
                          wide + (token - begin) * p.num_inputs);
  }
  ProductOut out;
  out.data = row_address(p.out, p.dtype, begin, head);
  out.stride = p.out.token_stride;
  out.dtype = p.dtype;
  row_kernels().multiply_rows({wide, end - begin, p.num_inputs}, matrix, p.row_stride, p.dtype, 0,
                              p.num_outputs, out);
}

void multiply_by_inputs(const HeadProducts& p, std::int64_t head, const void* matrix,
                        std::int64_t begin, std::int64_t end) {
  thread_local cpu::Buffer<float> sums;
  row_kernels().multiply_columns({.x = row_address(p.x, p.dtype, begin, head),
                                  .weight = matrix,
                                  .out = row_address(p.out, p.dtype, begin, head),
                                  .x_stride = p.x.token_stride,
                                  .weight_stride = p.row_stride,
                                  .out_stride = p.out.token_stride,
                                  .count = end - begin,
                                  .size = p.num_inputs,
                                  .num_columns = p.num_outputs},
                                 p.dtype, sums.grow((end - begin) * p.num_outputs));
}

}  // namespace

void multiply_heads(const HeadProducts& p) {
  const auto multiply = p.rows == MatrixRows::kOutputs ? multiply_by_outputs : multiply_by_inputs;
  parallel_for(p.num_heads, [&](std::int64_t head) {
    const auto bytes = static_cast<std::int64_t>(element_bytes(p.dtype));
    const auto* matrix = static_cast<const std::byte*>(p.matrices) + head * p.matrix_stride * bytes;
    for (std::int64_t begin = 0; begin < p.num_tokens; begin += kFewRows) {
      multiply(p, head, matrix, begin, std::min(p.num_tokens, begin + kFewRows));
    }
  });
}

}  // namespace loza::model_cpu
