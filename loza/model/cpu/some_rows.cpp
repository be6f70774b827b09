#include "loza/model/cpu/some_rows.h"

#include <algorithm>

#include "loza/attention/cpu/instruction_set.h"
#include "loza/base/check.h"
#include "loza/base/parallel_for.h"
#include "loza/model/cpu/bf16_products.h"

namespace loza::model_cpu {

#ifdef __x86_64__

bool has_bf16_products() { return cpu::instruction_set() == cpu::InstructionSet::kAvx512Bf16; }

void multiply_some_rows(const RowsView& x, const RowsView& weight, const ProductOut& out) {
  LOZA_CHECK(has_bf16_products());
  LOZA_CHECK(x.dtype == DType::kBF16 && weight.dtype == DType::kBF16 && x.size == weight.size &&
                 x.count <= kSomeRows,
             x.size, weight.size, x.count);
  // A few tasks for each thread, each of whole blocks but for the last.
  constexpr std::int64_t kTasks = 4;
  const std::int64_t num_blocks = (weight.count + kBf16Outputs - 1) / kBf16Outputs;
  const std::int64_t num_tasks = std::min(num_blocks, kTasks * num_threads());
  parallel_for(num_tasks, [&](std::int64_t task) {
    const std::int64_t end = (task + 1) * num_blocks / num_tasks;
    for (std::int64_t block = task * num_blocks / num_tasks; block < end; ++block) {
      multiply_bf16_block(x, weight, block * kBf16Outputs,
                          std::min(weight.count, (block + 1) * kBf16Outputs), out);
    }
  });
}

#else

bool has_bf16_products() { return false; }

void multiply_some_rows(const RowsView&, const RowsView&, const ProductOut&) {
  LOZA_CHECK(has_bf16_products());
}

#endif

}  // namespace loza::model_cpu
