// Attention under LoZA's pattern from another project: 2,000 tokens, 4 heads of 64.
#include <torch/torch.h>

#include <cmath>
#include <cstdio>

#include "loza/attention/attention.h"

int main() {
  const torch::Tensor q = torch::randn({2000, 4, 64});
  const torch::Tensor k = torch::randn({2000, 4, 64});
  const torch::Tensor v = torch::randn({2000, 4, 64});
  const auto sequences = loza::attention::Sequences::whole({0, 2000});
  const double scale = 1 / std::sqrt(64.0);

  const auto full = loza::attention::attend(q, k, v, sequences, loza::BlockPattern::full(), scale);
  const auto streaming = loza::attention::attend(q, k, v, sequences, loza::BlockPattern{}, scale);
  const auto difference = (full - streaming).abs().amax({1, 2});

  const bool same_at_first = difference.slice(0, 0, 1024).max().item<float>() < 1e-5f;
  const bool differs_later = difference.slice(0, 1024).max().item<float>() > 1e-3f;
  std::printf("streaming equals full up to position 1023: %s; differs from 1024 on: %s\n",
              same_at_first ? "yes" : "no", differs_later ? "yes" : "no");
  return same_at_first && differs_later ? 0 : 1;
}
