#include "loza/model/cpu/int8_weight.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "loza/attention/cpu/buffer.h"
#include "loza/base/check.h"
#include "loza/base/parallel_for.h"
#include "loza/model/cpu/row_numbers.h"

namespace loza::model_cpu {
namespace {

// Rows that share a task: their integers stay in the L2 cache while panels pass by.
constexpr std::int64_t kRowsOfTask = 20 * kInt8TileRows;

// The integers of rows, for as long as a product needs them.
class QuantizedRows {
 public:
  Int8Rows quantize(const RowsView& x, std::int64_t num_terms) {
    const std::int64_t num_groups = (x.size + kGroup - 1) / kGroup;
    const std::int64_t count = num_terms * x.count * num_groups;
    const Int8Rows rows{integers_.grow(count * kGroup),
                        scales_.grow(count),
                        offsets_.grow(count),
                        num_terms,
                        x.count,
                        num_groups};
    const Int8Kernels& kernels = int8_kernels();
    constexpr std::int64_t kStep = 16;
    parallel_for((x.count + kStep - 1) / kStep, [&](std::int64_t step) {
      const std::int64_t end = std::min(x.count, (step + 1) * kStep);
      for (std::int64_t m = step * kStep; m < end; ++m) {
        kernels.quantize_row(x.row(m), x.dtype, x.size, m, rows);
      }
    });
    return rows;
  }

 private:
  cpu::Buffer<std::int8_t> integers_;
  cpu::Buffer<float> scales_;
  cpu::Buffer<std::int32_t> offsets_;
};

}  // namespace

Int8Weight::Int8Weight(const RowsView& weight, HugePageArena& memory)
    : num_outputs_(weight.count), size_(weight.size) {
  const std::shared_ptr<std::byte> bytes_of_panels = memory.take(bytes());
  panels_ = {bytes_of_panels, reinterpret_cast<std::uint8_t*>(bytes_of_panels.get())};
  parallel_for(num_panels(), [&](std::int64_t panel) { pack_panel(weight, panel); });
}

void Int8Weight::pack_panel(const RowsView& weight, std::int64_t panel) {
  std::uint8_t* groups = panels_.get() + panel * panel_bytes();
  std::memset(groups, 0, static_cast<std::size_t>(panel_bytes()));
  const std::int64_t end = std::min(num_outputs_, (panel + 1) * kPanelOutputs);
  for (std::int64_t n = panel * kPanelOutputs; n < end; ++n) {
    const std::int64_t lane = n % kPanelOutputs;
    with_type(weight.dtype, [&]<typename T>(T*) {
      const T* row = static_cast<const T*>(weight.row(n));
      for (std::int64_t g = 0; g < num_groups(); ++g) {
        std::uint8_t* group = groups + g * kGroupBytes;
        float largest = 0;
        bool is_finite = true;
        const std::int64_t count = std::min(kGroup, size_ - g * kGroup);
        for (std::int64_t i = 0; i < count; ++i) {
          const float value = widen(row[g * kGroup + i]);
          largest = std::max(largest, std::fabs(value));
          is_finite = is_finite && std::isfinite(value);
        }
        // Integers are of the scale as it is kept.
        const std::uint16_t scale_bits = narrow<std::uint16_t>(
            is_finite ? largest / 127.0f : std::numeric_limits<float>::quiet_NaN());
        const float scale = widen(scale_bits);
        const float inverse = is_finite && scale > 1e-30f ? 1.0f / scale : 0.0f;
        std::memcpy(group + 2 * lane, &scale_bits, sizeof(scale_bits));
        for (std::int64_t i = 0; i < kGroup; ++i) {
          const float value = i < count && is_finite ? widen(row[g * kGroup + i]) * inverse : 0.0f;
          const long integer = std::lrintf(std::clamp(value, -127.0f, 127.0f));
          group[2 * kPanelOutputs + (i / 4) * 4 * kPanelOutputs + 4 * lane + i % 4] =
              static_cast<std::uint8_t>(integer + 128);
        }
      }
    });
  }
}

void Int8Weight::multiply(const RowsView& x, std::int64_t num_terms, const ProductOut& out) const {
  multiply(x, {{this, x.count}}, num_terms, out);
}

void Int8Weight::multiply(const RowsView& x, const std::vector<Group>& groups,
                          std::int64_t num_terms, const ProductOut& out) {
  thread_local QuantizedRows scratch;
  const Int8Rows rows = scratch.quantize(x, num_terms);

  struct Task {
    const Int8Weight* weight;
    std::int64_t rows_begin, rows_end;
    std::int64_t first_panel, end_panel;
  };
  // A few tasks for each thread, each a long run of memory.
  constexpr std::int64_t kTasks = 4;
  std::vector<Task> tasks;
  std::int64_t begin = 0;
  for (const auto& [weight, count] : groups) {
    LOZA_CHECK(x.size == weight->size_, x.size, weight->size_);
    const std::int64_t num_panels = weight->num_panels();
    const std::int64_t num_panel_tasks = std::min(num_panels, kTasks * num_threads());
    const std::int64_t end = begin + count;
    for (; begin < end; begin = std::min(end, begin + kRowsOfTask)) {
      for (std::int64_t i = 0; i < num_panel_tasks; ++i) {
        tasks.push_back({weight, begin, std::min(end, begin + kRowsOfTask),
                         i * num_panels / num_panel_tasks, (i + 1) * num_panels / num_panel_tasks});
      }
    }
  }
  LOZA_CHECK(begin == x.count, begin, x.count);
  parallel_for(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t i) {
    const Task& task = tasks[static_cast<std::size_t>(i)];
    for (std::int64_t panel = task.first_panel; panel < task.end_panel; ++panel) {
      task.weight->multiply_panel(rows, task.rows_begin, task.rows_end, panel, out);
    }
  });
}

void Int8Weight::multiply_panel(const Int8Rows& rows, std::int64_t rows_begin,
                                std::int64_t rows_end, std::int64_t panel,
                                const ProductOut& out) const {
  const std::int64_t begin = panel * kPanelOutputs;
  const std::int64_t end = std::min(num_outputs_, begin + kPanelOutputs);
  for (std::int64_t row = rows_begin; row < rows_end; row += kInt8TileRows) {
    int8_kernels().multiply_panel(rows, row, std::min(kInt8TileRows, rows_end - row),
                                  panels_.get() + panel * panel_bytes(), begin, end, out);
  }
}

void Int8Weight::dequantize_row(std::int64_t n, float* row) const {
  const std::uint8_t* groups = panels_.get() + n / kPanelOutputs * panel_bytes();
  const std::int64_t lane = n % kPanelOutputs;
  for (std::int64_t k = 0; k < size_; ++k) {
    const std::uint8_t* group = groups + k / kGroup * kGroupBytes;
    const std::int64_t i = k % kGroup;
    std::uint16_t scale_bits;
    std::memcpy(&scale_bits, group + 2 * lane, sizeof(scale_bits));
    const std::uint8_t shifted =
        group[2 * kPanelOutputs + (i / 4) * 4 * kPanelOutputs + 4 * lane + i % 4];
    row[k] = widen(scale_bits) * static_cast<float>(static_cast<int>(shifted) - 128);
  }
}

}  // namespace loza::model_cpu
