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
  thread_local cpu::Buffer<float> scratch;
  float* const wide = scratch.grow(x.count * x.size);
  const RowKernels& kernels = row_kernels();
  for (std::int64_t m = 0; m < x.count; ++m) {
    kernels.arrange(x.row(m), x.size, x.dtype, wide + m * x.size);
  }
  // A few tasks for each thread, each a long run of memory.
  constexpr std::int64_t kTasks = 4;
  const std::int64_t num_tasks = std::min(weight.count, kTasks * num_threads());
  parallel_for(num_tasks, [&](std::int64_t task) {
    const std::int64_t begin = task * weight.count / num_tasks;
    const std::int64_t end = (task + 1) * weight.count / num_tasks;
    kernels.multiply_rows({wide, x.count, x.size}, weight.row(begin), weight.stride, weight.dtype,
                          begin, end, out);
  });
}

}  // namespace loza::model_cpu
