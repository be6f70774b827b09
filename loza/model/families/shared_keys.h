#pragma once

#include "loza/model/config.h"
#include "loza/model/config_reader.h"

// Keys that several families spell alike.
namespace loza::families {

// The largest sizes that are believed. They keep every product of two of them, times a
// length, far from overflow; the weights' own shapes are checked against the file later.
constexpr std::int64_t kMaxVocab = std::int64_t{1} << 24;
constexpr std::int64_t kMaxHidden = std::int64_t{1} << 20;
constexpr std::int64_t kMaxLayers = 10'000;
constexpr std::int64_t kMaxHeads = 1 << 14;
constexpr std::int64_t kMaxHeadSize = 1 << 13;
constexpr std::int64_t kMaxPosition = std::int64_t{1} << 40;
constexpr std::int64_t kMaxExperts = 1 << 16;

// Sizes, norm, tied embeddings, activation; refuses quantised weights.
// `layers_key` and `intermediate_key` are how the family spells these two.
ModelConfig read_decoder(const ConfigReader& config, const std::string& family,
                         const std::string& layers_key = "num_hidden_layers",
                         const std::string& intermediate_key = "intermediate_size");

// Heads of grouped-query attention with head_dim, and the rope of whole heads.
// REQUIRES: read_decoder made `model`.
void read_gqa(const ConfigReader& config, ModelConfig& model);

// Heads of latent attention and the rope of their rotated parts. REQUIRES: as read_gqa.
void read_mla(const ConfigReader& config, ModelConfig& model, double default_theta = 10000);

// Both spellings that transformers has had: `rope_scaling` beside `rope_theta`, and
// `rope_parameters` with everything inside. REQUIRES: model.max_position is set.
RopeConfig read_rope(const ConfigReader& config, const ModelConfig& model, std::int64_t size,
                     double default_theta = 10000);

// Refuses a sliding window of `window_key` shorter than the model's longest input.
void refuse_sliding_window(const ConfigReader& config, const ModelConfig& model,
                           const std::string& window_key);

}  // namespace loza::families
