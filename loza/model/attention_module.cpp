#include "loza/model/attention_module.h"

#include <torch/torch.h>

#include <algorithm>
#include <utility>

#include "loza/base/check.h"
#include "loza/model/elementwise.h"
#include "loza/model/gqa.h"
#include "loza/model/kv_rows.h"
#include "loza/model/mla.h"

namespace loza {
namespace {

ForwardContext::Mode mode_of(const ForwardBatch& batch) {
  if (batch.core != nullptr) return ForwardContext::Mode::kCore;
  if (batch.on_device != nullptr) return ForwardContext::Mode::kDecode;
  const std::int64_t len = batch.offsets[1] - batch.offsets[0];
  bool equal = len >= 1 && len <= ForwardBatch::kMaxDecodeTokens;
  for (std::size_t b = 1; b + 1 < batch.offsets.size(); ++b) {
    equal = equal && batch.offsets[b + 1] - batch.offsets[b] == len;
  }
  return equal ? ForwardContext::Mode::kDecode : ForwardContext::Mode::kPrefill;
}

// Where a query stands when the blocks between the sink and its window are taken out. `places` say
// in which block it is, `positions` by how much it is rotated; [T] int64.
at::Tensor capped(const at::Tensor& positions, const at::Tensor& places,
                  const BlockPattern& pattern) {
  const at::Tensor gap = at::floor_divide(places, pattern.block_size) -
                         (pattern.recent_blocks - 1 + pattern.sink_blocks);
  return positions - gap.clamp_min(0) * pattern.block_size;
}

}  // namespace

attention::Queries ModuleRotation::rotate_queries(const at::Tensor& q, std::int64_t prefix) const {
  at::Tensor sink_q;
  if (of_sink_query) sink_q = rotate(q, *of_sink_query, prefix);
  return {rotate(q, rotation, prefix), sink_q};
}

ForwardContext::ForwardContext(const ForwardBatch& batch, const ModelConfig& config,
                               const Ropes& ropes)
    : batch(batch), mode(mode_of(batch)), sequences(attention::Sequences::whole(batch.offsets)) {
  full_ = {ropes.full.at(batch.positions), std::nullopt, config.softmax_scale};
  const at::Tensor& places = batch.places.defined() ? batch.places : batch.positions;
  for (std::int64_t i = 0; i < config.num_modules(); ++i) {
    const BlockPattern of_module = pattern(i);
    const bool is_known = std::any_of(streaming_.begin(), streaming_.end(),
                                      [&](const auto& known) { return known.first == of_module; });
    if (of_module.is_full() || is_known) continue;
    ModuleRotation rotation = full_;
    if (config.has_rope_by_kind) {
      rotation.rotation = ropes.streaming.at(places);
      rotation.softmax_scale = config.streaming_softmax_scale;
    }
    if (config.sink_is_capped) {
      rotation.of_sink_query = ropes.streaming.at(
          capped(config.has_rope_by_kind ? places : batch.positions, places, of_module));
    }
    streaming_.emplace_back(of_module, std::move(rotation));
  }
}

BlockPattern ForwardContext::pattern(std::int64_t module_idx) const {
  if (batch.core != nullptr) return batch.core->pattern(module_idx);
  return batch.plan->patterns[static_cast<std::size_t>(module_idx)];
}

const ModuleRotation& ForwardContext::rotation(std::int64_t module_idx) const {
  const BlockPattern of_module = pattern(module_idx);
  for (const auto& [known, rotation] : streaming_) {
    if (known == of_module) return rotation;
  }
  return full_;
}

const PagedKvView& ForwardContext::kv(std::int64_t module_idx) const {
  const auto module = static_cast<std::size_t>(module_idx);
  return batch.on_device != nullptr ? batch.on_device->modules[module].kv : (*batch.kv)[module];
}

at::Tensor ForwardContext::decode(std::int64_t module_idx, const attention::Queries& queries,
                                  const at::Tensor& rows, std::int64_t num_key_heads,
                                  std::int64_t v_size) const {
  const BlockPattern of_module = pattern(module_idx);
  const double scale = rotation(module_idx).softmax_scale;
  if (batch.on_device == nullptr) {
    write_rows(kv(module_idx), batch.offsets, rows);
    return attention::attend_paged(queries, kv(module_idx), num_sequences(), num_key_heads, v_size,
                                   of_module, scale);
  }
  const auto& module = batch.on_device->modules[static_cast<std::size_t>(module_idx)];
  write_rows(module.kv, module.new_rows, rows);
  return attention::attend_paged_on_device(queries, module.kv, num_sequences(), num_key_heads,
                                           v_size, of_module, scale, batch.on_device->max_length);
}

std::unique_ptr<AttentionModule> make_attention(Weights& weights, const std::string& name,
                                                const ModelConfig& config,
                                                std::int64_t module_idx) {
  if (config.attention == ModelConfig::Attention::kMla) {
    return std::make_unique<Mla>(weights, name, config, module_idx);
  }
  return std::make_unique<Gqa>(weights, name, config, module_idx);
}

}  // namespace loza
