#include "loza/model/cpu/few_rows.h"

#include <algorithm>

#include "loza/attention/cpu/buffer.h"
#include "loza/base/check.h"
#include "loza/base/parallel_for.h"
#include "loza/model/cpu/row_kernels.h"

namespace loza::model_cpu {

void multiply_few_rows(const RowsView& x, const RowsView& weight, const ProductOut& out) {
  LOZA_CHECK(x.size == weight.size && x.dtype == weight.dtype && x.count <= kFewRows, x.size,
             weight.size, x.count);
  if (x.count == 0 || weight.count == 0) return;
  // The rows side by side in fp32, for all outputs.
  thread_local cpu::Buffer<float> scratch;
  float* const wide = scratch.grow(x.count * x.size);
  const RowKernels& kernels = row_kernels();
  for (std::int64_t m = 0; m < x.count; ++m) {
    kernels.widen(x.row(m), x.size, x.dtype, wide + m * x.size);
  }
  const std::int64_t row_bytes =
      std::max<std::int64_t>(1, x.size * static_cast<std::int64_t>(element_bytes(x.dtype)));
  const std::int64_t step = std::max<std::int64_t>(16, (std::int64_t{1} << 15) / row_bytes);
  parallel_for((weight.count + step - 1) / step, [&](std::int64_t task) {
    const std::int64_t begin = task * step, end = std::min(weight.count, begin + step);
    kernels.multiply_rows({wide, x.count, x.size}, weight.row(begin),
                          weight.stride, weight.dtype, begin, end, out);
  });
}

}  // namespace loza::model_cpu
