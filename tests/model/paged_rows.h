#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "loza/attention/params.h"
#include "loza/base/random.h"
#include "loza/model/config.h"
#include "loza/model/plan.h"

namespace loza::testing {

// KV memory for tests, as unkind as the contract of PagedKvView allows: pages in random order,
// every number NaN until it is written, rows wider than they must be, table entries that point
// nowhere where no query looks.
class PagedRows {
 public:
  // page_len divides the plan's block size. Streaming modules keep the sink and a ring that is
  // as small as num_ring_blocks allows for max_new tokens queried together.
  PagedRows(const ModelConfig& config, const AttentionPlan& plan, at::ScalarType dtype,
            std::int64_t num_sequences, std::int64_t max_len, std::int64_t page_len,
            std::int64_t max_new, std::uint64_t seed)
      : config_(config), num_sequences_(num_sequences), lengths_(num_sequences, 0) {
    Random random(seed);
    for (const BlockPattern& pattern : plan.patterns) {
      modules_.push_back(make_module(pattern, dtype, max_len, page_len, max_new, random));
    }
  }

  void append(std::int64_t sequence, std::int64_t num_new) {
    lengths_[static_cast<std::size_t>(sequence)] += num_new;
  }

  // Views of all modules over `batch`, in that order; valid until the next call.
  const std::vector<PagedKvView>& views(const std::vector<std::int64_t>& batch) {
    batch_lengths_.clear();
    for (const std::int64_t sequence : batch) {
      batch_lengths_.push_back(lengths_[static_cast<std::size_t>(sequence)]);
    }
    views_.clear();
    for (Module& module : modules_) {
      module.batch_table.clear();
      for (const std::int64_t sequence : batch) {
        const auto begin = module.table.begin() + sequence * module.slots;
        module.batch_table.insert(module.batch_table.end(), begin, begin + module.slots);
      }
      PagedKvView view = module.view;
      view.page_table = module.batch_table.data();
      view.lengths = batch_lengths_.data();
      views_.push_back(view);
    }
    return views_;
  }

 private:
  struct Module {
    at::Tensor memory;                             // [pages, page_len, row + padding]
    std::vector<std::int32_t> table, batch_table;  // [sequences, slots]
    std::int64_t slots = 0;
    PagedKvView view;
  };

  Module make_module(const BlockPattern& pattern, at::ScalarType dtype, std::int64_t max_len,
                     std::int64_t page_len, std::int64_t max_new, Random& random) const {
    constexpr std::int64_t kPadding = 8, kUnusedPages = 3;
    Module module;
    PagedKvView& view = module.view;
    if (pattern.is_full()) {
      module.slots = (max_len + page_len - 1) / page_len;
    } else {
      const std::int64_t pages_per_block = pattern.block_size / page_len;
      view.sink_pages = pattern.sink_blocks * pages_per_block;
      view.ring_pages = num_ring_blocks(pattern, max_new) * pages_per_block;
      module.slots = view.sink_pages + view.ring_pages;
    }
    const std::int64_t num_pages = num_sequences_ * module.slots + kUnusedPages;
    std::vector<std::int32_t> pages;
    for (std::int64_t page = 0; page < num_pages; ++page) {
      pages.push_back(static_cast<std::int32_t>(page));
    }
    random.shuffle(pages);
    module.table.assign(pages.begin(), pages.begin() + num_sequences_ * module.slots);
    const std::int64_t row = config_.kv_row_size() + kPadding;
    module.memory = at::full({num_pages, page_len, row}, std::numeric_limits<double>::quiet_NaN(),
                             at::TensorOptions(dtype));
    view.dtype = dtype == at::kBFloat16 ? DType::kBF16
                 : dtype == at::kDouble ? DType::kF64
                                        : DType::kF32;
    view.pages = module.memory.data_ptr();
    view.page_stride = page_len * row;
    view.row_stride = row;
    view.page_len = page_len;
    view.table_stride = module.slots;
    if (config_.attention == ModelConfig::Attention::kGqa) {
      view.k_head_stride = view.v_head_stride = config_.head_size;
      view.v_offset = config_.num_key_heads * config_.head_size;
    }
    return module;
  }

  ModelConfig config_;
  std::int64_t num_sequences_;
  std::vector<std::int64_t> lengths_, batch_lengths_;
  std::vector<Module> modules_;
  std::vector<PagedKvView> views_;
};

}  // namespace loza::testing
