#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "loza/base/random.h"

namespace loza {

// How the next token is chosen among the logits.
struct SamplingOptions {
  double temperature = 0;  // 0: the most likely token (greedy), and nothing below is read
  std::int64_t top_k = 0;  // the k most likely tokens; 0: all
  double top_p = 1;        // the fewest most likely tokens that have this share; at least one
  double min_p = 0;        // tokens at least min_p times as likely as the most likely one
  std::uint64_t seed = 0;
};

// Throws Error(kUsage) for a value outside its range: temperature and top_k >= 0, top_p and
// min_p in [0, 1], all finite. `place` begins the error's line.
void check_sampling(const SamplingOptions& options, const std::string& place);

// Chooses the tokens of one sequence. The order is transformers': temperature, top-k, top-p
// (of the share that top-k left), min-p; then one draw among what is left. Where logits are
// equal the lower id counts as more likely, so exactly k tokens pass top-k.
// The same seed and logits give the same tokens. Not thread-safe.
class Sampler {
 public:
  // REQUIRES: check_sampling passes.
  explicit Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {}

  // logits [vocab]. Nothing when one of them is NaN or infinite: a model whose numbers broke
  // has no next token. REQUIRES: not empty.
  std::optional<std::int64_t> sample(std::span<const float> logits);

 private:
  struct Candidate {
    float logit = 0;
    std::int32_t id = 0;
    double weight = 0;  // likelihood relative to the most likely token, in [0, 1]
  };
  // Moves the n most likely candidates to the front, in order.
  void rank(std::size_t n);
  void keep_top_k();
  void weigh(float max_logit);
  void keep_top_p();
  void keep_min_p();
  double total_weight() const;
  std::int64_t draw();

  SamplingOptions options_;
  Random random_;
  std::vector<Candidate> candidates_;  // kept between calls for its memory
  std::size_t num_ranked_ = 0;         // candidates in front that are in order
};

}  // namespace loza
