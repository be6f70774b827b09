#include "loza/model/rope.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace loza {
namespace {

at::Tensor plain_frequencies(const RopeConfig& config) {
  const at::Tensor exponents =
      at::arange(0, config.size, 2, at::kLong).to(at::kFloat) / static_cast<double>(config.size);
  return 1.0 / at::pow(config.theta, exponents);
}

// Wavelengths longer than the original context / low_freq_factor are stretched by the factor,
// those shorter than it / high_freq_factor stay, between them is a linear blend.
at::Tensor llama3_frequencies(const RopeConfig& config) {
  const at::Tensor plain = plain_frequencies(config);
  const double original = config.original_max_position;
  const at::Tensor wavelength = 2 * std::numbers::pi / plain;
  const at::Tensor stretched = plain / config.factor;
  const at::Tensor blend = (original / wavelength - config.low_freq_factor) /
                           (config.high_freq_factor - config.low_freq_factor);
  const at::Tensor blended = (1 - blend) * plain / config.factor + blend * plain;
  const at::Tensor is_long = wavelength > original / config.low_freq_factor;
  const at::Tensor is_short = wavelength < original / config.high_freq_factor;
  return at::where(is_long, stretched, at::where(is_short, plain, blended));
}

// YaRN, arXiv 2309.00071: dimensions that turn more than beta_fast times within the original
// context keep their frequency, those below beta_slow are stretched, a ramp lies between.
at::Tensor yarn_frequencies(const RopeConfig& config) {
  const double size = static_cast<double>(config.size);
  const auto dimension_of = [&](double turns) {
    return size * std::log(config.original_max_position / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(config.theta));
  };
  double low = dimension_of(config.beta_fast), high = dimension_of(config.beta_slow);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, size - 1);
  if (low == high) high += 0.001;
  const at::Tensor ramp =
      at::clamp((at::arange(config.size / 2, at::kFloat) - low) / (high - low), 0, 1);
  const at::Tensor exponents = at::arange(0, config.size, 2, at::kFloat) / size;
  const at::Tensor periods = at::pow(config.theta, exponents);
  const at::Tensor kept = 1 - ramp;
  return 1.0 / (config.factor * periods) * (1 - kept) + 1.0 / periods * kept;
}

at::Tensor frequencies(const RopeConfig& config) {
  switch (config.scaling) {
    case RopeConfig::Scaling::kNone:
      return plain_frequencies(config);
    case RopeConfig::Scaling::kLinear:
      return plain_frequencies(config) / config.factor;
    case RopeConfig::Scaling::kLlama3:
      return llama3_frequencies(config);
    case RopeConfig::Scaling::kYarn:
      return yarn_frequencies(config);
  }
  return {};
}

double attention_factor(const RopeConfig& config) {
  if (config.scaling != RopeConfig::Scaling::kYarn) return 1;
  if (config.attention_factor) return *config.attention_factor;
  const auto mscale = [&](double weight) {
    return config.factor <= 1 ? 1 : 0.1 * weight * std::log(config.factor) + 1;
  };
  if (config.mscale && config.mscale_all_dim) {
    return mscale(*config.mscale) / mscale(*config.mscale_all_dim);
  }
  return mscale(1);
}

}  // namespace

Rope::Rope(const RopeConfig& config, at::Device device)
    : inv_freq_(frequencies(config).to(device)),
      attention_factor_(loza::attention_factor(config)),
      interleaved_(config.interleaved) {}

Rotation Rope::at(const at::Tensor& positions) const {
  const at::Tensor angles = positions.to(at::kFloat).unsqueeze(1) * inv_freq_.unsqueeze(0);
  return {angles.cos() * attention_factor_, angles.sin() * attention_factor_, interleaved_};
}

}  // namespace loza
