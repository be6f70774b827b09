#include "loza/engine/decode_graphs.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "loza/attention/attention.h"
#include "loza/attention/paged_rows.h"
#include "loza/base/check.h"
#include "loza/base/error.h"
#include "loza/model/device_step.h"

namespace loza {
namespace {

bool are_wanted() {
  const char* value = std::getenv("LOZA_CUDA_GRAPHS");
  const std::string wanted = value == nullptr ? "1" : value;
  if (wanted != "0" && wanted != "1") {
    throw_usage("LOZA_CUDA_GRAPHS", "0 or 1", wanted, "unset it, or take one of these");
  }
  return wanted == "1";
}

// What attention decodes with: heads, or MLA's latents as one head.
struct DecodeSizes {
  std::int64_t key_heads, qk_size, v_size;

  explicit DecodeSizes(const ModelConfig& config)
      : key_heads(config.num_key_heads), qk_size(config.head_size), v_size(config.head_size) {
    if (config.attention != ModelConfig::Attention::kMla) return;
    key_heads = 1;
    qk_size = config.kv_lora_rank + config.rope_size;
    v_size = config.kv_lora_rank;
  }
};

bool can_capture(const Transformer& model, const AttentionPlan& plan, KvCache& cache) {
  const ModelConfig& config = model.config();
  if (!model.device().is_cuda() || config.moe || !are_wanted()) return false;
  const DecodeSizes sizes(config);
  const at::Tensor q = at::empty({1, config.num_heads, sizes.qk_size},
                                 at::TensorOptions(model.dtype()).device(model.device()));
  const std::vector<PagedKvView>& views = cache.views({});
  for (std::size_t i = 0; i < views.size(); ++i) {
    if (!attention::can_attend_on_device(q, views[i], 1, sizes.key_heads, sizes.v_size,
                                         plan.patterns[i], config.softmax_scale)) {
      return false;
    }
  }
  return true;
}

// Modules that share a page table.
struct TableGroup {
  const std::int32_t* table = nullptr;  // of the host; tells groups apart
  PagedKvView view;                     // of any of its modules
};

std::vector<TableGroup> groups_of(const std::vector<PagedKvView>& views) {
  std::vector<TableGroup> groups;
  for (const PagedKvView& view : views) {
    const bool is_known = std::any_of(groups.begin(), groups.end(), [&](const TableGroup& group) {
      return group.table == view.page_table;
    });
    if (!is_known) groups.push_back({view.page_table, view});
  }
  return groups;
}

std::size_t group_index(const std::vector<TableGroup>& groups, const PagedKvView& view) {
  std::size_t i = 0;
  while (groups[i].table != view.page_table) ++i;
  return i;
}

// One shape's steps: memory of the device that does not move, and the graph that reads it.
class DecodeGraph {
 public:
  DecodeGraph(const Transformer& model, const AttentionPlan& plan,
              const std::vector<PagedKvView>& views, std::int64_t num_sequences,
              std::int64_t max_length)
      : model_(model), num_sequences_(num_sequences), max_length_(max_length) {
    const auto options = at::TensorOptions(at::kLong).device(model.device());
    const std::vector<TableGroup> groups = groups_of(views);
    numbers_ =
        at::zeros({kFirstRows + static_cast<std::int64_t>(groups.size()), num_sequences}, options);
    for (const TableGroup& group : groups) {
      const std::int64_t all_pages = (max_length + group.view.page_len - 1) / group.view.page_len;
      const std::int64_t stride = group.view.ring_pages > 0 ? group.view.table_stride : all_pages;
      tables_.push_back(at::zeros({num_sequences, stride}, options.dtype(at::kInt)));
      uploaded_.emplace_back();
    }
    for (const PagedKvView& view : views) {
      const std::size_t g = group_index(groups, view);
      PagedKvView on_device = view;
      on_device.page_table = tables_[g].const_data_ptr<std::int32_t>();
      on_device.table_stride = tables_[g].size(1);
      on_device.lengths = numbers_[kLengths].const_data_ptr<std::int64_t>();
      step_.modules.push_back({on_device, numbers_[kFirstRows + static_cast<std::int64_t>(g)]});
    }
    step_.max_length = max_length;
    batch_.ids = numbers_[kIds];
    batch_.positions = numbers_[kPositions];
    batch_.places = numbers_[kPlaces];
    for (std::int64_t b = 0; b <= num_sequences; ++b) batch_.offsets.push_back(b);
    batch_.plan = &plan;
    batch_.on_device = &step_;
  }

  bool is_for(std::int64_t num_sequences, std::int64_t longest) const {
    return num_sequences_ == num_sequences && longest <= max_length_ && 2 * longest > max_length_;
  }

  // Brings a step to where the graph looks for it.
  void upload(const StepTokens& tokens, const std::vector<PagedKvView>& views) {
    const std::vector<TableGroup> groups = groups_of(views);
    const std::vector<std::int64_t>& places =
        tokens.places.empty() ? tokens.positions : tokens.places;
    std::vector<std::int64_t> numbers = tokens.ids;
    numbers.insert(numbers.end(), tokens.positions.begin(), tokens.positions.end());
    numbers.insert(numbers.end(), places.begin(), places.end());
    const std::int64_t* lengths = views.front().lengths;
    numbers.insert(numbers.end(), lengths, lengths + num_sequences_);
    std::vector<attention::RowRun> new_rows;  // of one row each
    for (const TableGroup& group : groups) {
      for (std::int64_t b = 0; b < num_sequences_; ++b) {
        attention::add_runs(group.view, b, lengths[b] - 1, lengths[b], new_rows);
      }
    }
    for (const attention::RowRun& run : new_rows) numbers.push_back(run.first_row);
    copy_to(numbers_, numbers);
    for (std::size_t g = 0; g < groups.size(); ++g) upload_table(groups[g].view, g);
  }

  at::Tensor run() const { return model_.logits(model_.forward(batch_)); }

  void capture(at::cuda::MempoolId_t pool) {
    const c10::cuda::CUDAStream stream =
        c10::cuda::getStreamFromPool(false, model_.device().index());
    c10::cuda::getCurrentCUDAStream().synchronize();
    const c10::cuda::CUDAStreamGuard guard(stream);
    graph_.emplace();
    graph_->capture_begin(pool);
    logits_ = run();
    graph_->capture_end();
  }
  bool is_captured() const { return graph_.has_value(); }

  // A copy: the next replay writes to the same place.
  at::Tensor replay() {
    graph_->replay();
    return logits_.clone();
  }

 private:
  // Rows of numbers_; from kFirstRows on, a group's each.
  enum : std::int64_t { kIds, kPositions, kPlaces, kLengths, kFirstRows };

  // Memory that is not pinned has been read when this returns.
  template <typename T>
  static void copy_to(const at::Tensor& device, const std::vector<T>& host) {
    device.copy_(at::from_blob(const_cast<T*>(host.data()), device.sizes(),
                               at::TensorOptions(device.scalar_type())),
                 /*non_blocking=*/true);
  }

  void upload_table(const PagedKvView& view, std::size_t group_idx) {
    const at::Tensor& table = tables_[group_idx];
    const std::int64_t stride = table.size(1);
    LOZA_CHECK(view.table_stride <= stride, view.table_stride, stride);
    std::vector<std::int32_t> pages(static_cast<std::size_t>(table.numel()));
    for (std::int64_t b = 0; b < num_sequences_; ++b) {
      const std::int32_t* from = view.page_table + b * view.table_stride;
      std::copy(from, from + view.table_stride,
                pages.begin() + static_cast<std::ptrdiff_t>(b * stride));
    }
    if (pages == uploaded_[group_idx]) return;
    copy_to(table, pages);
    uploaded_[group_idx] = std::move(pages);
  }

  const Transformer& model_;
  std::int64_t num_sequences_, max_length_;
  at::Tensor numbers_;                               // [kinds, B] int64
  std::vector<at::Tensor> tables_;                   // a group's [B, stride] int32
  std::vector<std::vector<std::int32_t>> uploaded_;  // what they hold
  DeviceStep step_;
  ForwardBatch batch_;
  at::Tensor logits_;  // [B, vocab], where a replay leaves them
  std::optional<at::cuda::CUDAGraph> graph_;
};

class CudaDecodeGraphs : public DecodeGraphs {
 public:
  CudaDecodeGraphs(const Transformer& model, const AttentionPlan& plan, KvCache& cache)
      : model_(model), plan_(plan), cache_(cache), pool_(at::cuda::graph_pool_handle()) {}

  at::Tensor logits(const StepTokens& tokens) override {
    const c10::cuda::CUDAGuard device(model_.device());
    const std::vector<PagedKvView>& views = cache_.views(tokens.sequences);
    const auto num_sequences = static_cast<std::int64_t>(tokens.sequences.size());
    const std::int64_t* lengths = views.front().lengths;
    const std::int64_t longest = *std::max_element(lengths, lengths + num_sequences);
    const bool is_new = !find(num_sequences, longest);
    if (is_new) add(num_sequences, longest, views);
    DecodeGraph& graph = graphs_.front();
    graph.upload(tokens, views);
    if (is_new) return graph.run();
    if (!graph.is_captured()) graph.capture(pool_);
    ++num_replays_;
    return graph.replay();
  }
  std::int64_t num_replays() const override { return num_replays_; }

 private:
  // Brings the shape's to the front, if there is one.
  bool find(std::int64_t num_sequences, std::int64_t longest) {
    const auto found = std::find_if(graphs_.begin(), graphs_.end(), [&](const DecodeGraph& graph) {
      return graph.is_for(num_sequences, longest);
    });
    if (found == graphs_.end()) return false;
    graphs_.splice(graphs_.begin(), graphs_, found);
    return true;
  }

  void add(std::int64_t num_sequences, std::int64_t longest,
           const std::vector<PagedKvView>& views) {
    constexpr std::size_t kKept = 16;
    if (graphs_.size() == kKept) {
      c10::cuda::getCurrentCUDAStream().synchronize();  // a replay may still be under way
      graphs_.pop_back();
    }
    const auto bound = std::bit_ceil(static_cast<std::uint64_t>(longest));
    graphs_.emplace_front(model_, plan_, views, num_sequences, static_cast<std::int64_t>(bound));
  }

  const Transformer& model_;
  const AttentionPlan& plan_;
  KvCache& cache_;
  at::cuda::MempoolId_t pool_;     // graphs do not run beside each other, and share memory
  std::list<DecodeGraph> graphs_;  // those used last first
  std::int64_t num_replays_ = 0;
};

}  // namespace

std::unique_ptr<DecodeGraphs> DecodeGraphs::make_if_possible(const Transformer& model,
                                                             const AttentionPlan& plan,
                                                             KvCache& cache) {
  if (!can_capture(model, plan, cache)) return nullptr;
  return std::make_unique<CudaDecodeGraphs>(model, plan, cache);
}

}  // namespace loza
