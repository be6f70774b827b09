#include "loza/model/cpu/few_rows.h"

#include <algorithm>

#include "loza/attention/cpu/buffer.h"
#include "loza/base/check.h"
#include "loza/base/parallel_for.h"
#include "loza/model/cpu/row_kernels.h"

namespace loza::model_cpu {

namespace {

// Outputs [begin, end) of a product, a long run of memory.
struct Task {
  const RowsProduct* product;
  const float* wide;  // its x, arranged
  std::int64_t begin, end;
};

// Short enough that threads end together, long enough that memory is read ahead.
constexpr std::int64_t kTaskBytes = std::int64_t{256} << 10;

void add_tasks(const RowsProduct& product, const float* wide, std::vector<Task>& tasks) {
  const RowsView& weight = product.weight;
  const std::int64_t bytes =
      weight.count * weight.size * static_cast<std::int64_t>(element_bytes(weight.dtype));
  const std::int64_t num_tasks =
      std::min(weight.count, std::max<std::int64_t>(num_threads(), bytes / kTaskBytes));
  for (std::int64_t i = 0; i < num_tasks; ++i) {
    tasks.push_back(
        {&product, wide, i * weight.count / num_tasks, (i + 1) * weight.count / num_tasks});
  }
}

}  // namespace

void multiply_few_rows(const RowsView& x, const RowsView& weight, const ProductOut& out) {
  multiply_few_rows({{x, weight, out}});
}

void multiply_few_rows(const std::vector<RowsProduct>& products) {
  const RowKernels& kernels = row_kernels();
  std::int64_t num_wide = 0;
  for (const auto& [x, weight, out] : products) {
    LOZA_CHECK(x.size == weight.size && x.dtype == weight.dtype && x.count <= kFewRows, x.size,
               weight.size, x.count);
    num_wide += x.count * x.size;
  }
  thread_local cpu::Buffer<float> scratch;
  float* wide = scratch.grow(num_wide);
  std::vector<Task> tasks;
  for (const RowsProduct& product : products) {
    const RowsView& x = product.x;
    if (x.count == 0) continue;
    add_tasks(product, wide, tasks);
    for (std::int64_t m = 0; m < x.count; ++m, wide += x.size) {
      kernels.arrange(x.row(m), x.size, x.dtype, wide);
    }
  }
  parallel_for(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t i) {
    const Task& task = tasks[static_cast<std::size_t>(i)];
    const RowsView &x = task.product->x, &weight = task.product->weight;
    kernels.multiply_rows({task.wide, x.count, x.size}, weight.row(task.begin), weight.stride,
                          weight.dtype, task.begin, task.end, task.product->out);
  });
}

}  // namespace loza::model_cpu
