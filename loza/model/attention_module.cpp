#include "loza/model/attention_module.h"

#include <torch/torch.h>

#include "loza/base/check.h"
#include "loza/model/gqa.h"
#include "loza/model/mla.h"

namespace loza {
namespace {

ForwardContext::Mode mode_of(const ForwardBatch& batch) {
  if (batch.core != nullptr) return ForwardContext::Mode::kCore;
  const std::int64_t len = batch.offsets[1] - batch.offsets[0];
  bool equal = len >= 1 && len <= ForwardBatch::kMaxDecodeTokens;
  for (std::size_t b = 1; b + 1 < batch.offsets.size(); ++b) {
    equal = equal && batch.offsets[b + 1] - batch.offsets[b] == len;
  }
  return equal ? ForwardContext::Mode::kDecode : ForwardContext::Mode::kPrefill;
}

}  // namespace

ForwardContext::ForwardContext(const ForwardBatch& batch, const Rope& rope)
    : batch(batch),
      mode(mode_of(batch)),
      sequences(attention::Sequences::whole(batch.offsets)),
      rotation(rope.at(batch.positions)) {}

const BlockPattern& ForwardContext::pattern(std::int64_t module_idx) const {
  return batch.plan->patterns[static_cast<std::size_t>(module_idx)];
}

const PagedKvView& ForwardContext::kv(std::int64_t module_idx) const {
  return (*batch.kv)[static_cast<std::size_t>(module_idx)];
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
