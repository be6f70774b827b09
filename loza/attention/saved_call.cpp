#include "loza/attention/saved_call.h"

#include <vector>

#include "loza/base/check.h"

namespace loza::attention {

void SavedCall::save(torch::autograd::AutogradContext& context) const {
  for (const std::int64_t skipped : sequences.skipped) LOZA_CHECK(skipped == 0, skipped);
  auto& data = context.saved_data;
  data["q_offsets"] = sequences.q_offsets;
  data["k_offsets"] = sequences.k_offsets;
  data["pattern"] =
      std::vector<std::int64_t>{pattern.block_size, pattern.sink_blocks, pattern.recent_blocks};
  data["scale"] = scale;
}

SavedCall SavedCall::of(torch::autograd::AutogradContext& context) {
  auto& data = context.saved_data;
  SavedCall call;
  call.sequences.q_offsets = data["q_offsets"].toIntVector();
  call.sequences.k_offsets = data["k_offsets"].toIntVector();
  const std::vector<std::int64_t> pattern = data["pattern"].toIntVector();
  call.pattern = {pattern[0], pattern[1], pattern[2]};
  call.scale = data["scale"].toDouble();
  return call;
}

}  // namespace loza::attention
