#pragma once

#include <torch/torch.h>

#include <memory>
#include <string>
#include <vector>

#include "loza/base/file.h"
#include "loza/base/random.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/model/transformer.h"
#include "tests/support/temp_folder.h"

namespace loza::testing {

// A checkpoint of make_tiny in a folder of its own.
class TinyFolder {
 public:
  explicit TinyFolder(const std::string& family, std::uint64_t seed = 1) {
    make_tiny(family, path(), seed);
  }
  std::filesystem::path path() const { return folder_ / "model"; }
  Checkpoint open() const { return Checkpoint(path()); }
  Transformer load(at::ScalarType dtype = at::kFloat) const {
    return Transformer::load(open(), dtype);
  }
  Json config() const { return open().config(); }
  void set_config(const Json& config) const {
    write_file_atomic(path() / "config.json", config.dump());
  }

 private:
  TempFolder folder_;
};

inline std::vector<std::int64_t> random_ids(std::int64_t length, std::uint64_t seed) {
  Random random(seed);
  std::vector<std::int64_t> ids;
  for (std::int64_t i = 0; i < length; ++i) ids.push_back(random.below(256));
  return ids;
}

// Hidden states of a whole sequence, without a cache.
inline at::Tensor whole(const Transformer& model, const AttentionPlan& plan,
                        const std::vector<std::int64_t>& ids) {
  PlannedCore core(plan);
  return model.forward(ForwardBatch::whole(ids, core));
}

// The largest difference, as a part of the largest number; infinite where NaN is.
inline double relative_error(const at::Tensor& out, const at::Tensor& expected) {
  const at::Tensor error = (out.to(at::kDouble) - expected.to(at::kDouble)).abs().max();
  const double value = (error / expected.to(at::kDouble).abs().max()).item<double>();
  return std::isfinite(value) ? value : std::numeric_limits<double>::infinity();
}

}  // namespace loza::testing
