#include "loza/engine/decode_graphs.h"

// decode_graphs.h in a build without the kernels.
namespace loza {

std::unique_ptr<DecodeGraphs> DecodeGraphs::make_if_possible(const Transformer&,
                                                             const AttentionPlan&, KvCache&) {
  return nullptr;
}

}  // namespace loza
