#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "loza/base/json.h"

namespace loza {

// How rotary angles are made from positions. Names and formulas are transformers'.
struct RopeConfig {
  enum class Scaling { kNone, kLinear, kLlama3, kYarn };

  double theta = 10000;
  std::int64_t size = 0;  // rotated elements of a head, even
  // true: pairs are (2i, 2i+1), as in DeepSeek's checkpoints; false: (i, i + size/2).
  bool interleaved = false;

  Scaling scaling = Scaling::kNone;
  double factor = 1;
  double original_max_position = 0;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  std::optional<double> mscale, mscale_all_dim;      // yarn, DeepSeek's convention
  std::optional<double> attention_factor;            // yarn, overrides mscale
  bool truncate = true;                              // yarn: low and high rounded to integers
};

// A mixture-of-experts feed-forward.
struct MoeConfig {
  enum class Scoring { kSoftmax, kSigmoid };
  enum class TopK { kGreedy, kGroupLimitedGreedy, kNoAuxTc };

  std::int64_t num_experts = 0;
  std::int64_t num_zero_experts = 0;  // chosen like the others, after them: they give what they get
  std::int64_t num_shared_experts = 0;
  std::int64_t experts_per_token = 0;
  std::int64_t expert_size = 0;  // intermediate size of one expert
  std::int64_t num_groups = 1, groups_per_token = 1;
  // Experts take the place of the dense feed-forward of layers from first_moe_layer on; or a layer
  // has both: they read what its first feed-forward reads and join the stream at its end.
  bool beside_dense = false;
  std::int64_t first_moe_layer = 0;
  std::int64_t moe_layer_freq = 1;
  Scoring scoring = Scoring::kSoftmax;
  TopK top_k = TopK::kGreedy;
  bool normalise = false;  // weights of the chosen experts sum to 1
  double scale = 1;        // routed_scaling_factor

  std::int64_t num_choices() const { return num_experts + num_zero_experts; }
};

// What a decoder is, without the family's spelling of it. families/X.cpp makes one from a
// config.json; layers read only this.
struct ModelConfig {
  enum class Attention { kGqa, kMla };

  std::string family;  // the registry's name: "llama", "deepseek_v3", ...
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t num_layers = 0;
  std::int64_t modules_per_layer = 1;  // attention modules; LongCat-Flash has 2
  std::int64_t intermediate_size = 0;  // dense feed-forward
  std::int64_t max_position = 0;
  double norm_eps = 1e-6;
  bool tied_embeddings = false;
  std::optional<MoeConfig> moe;

  Attention attention = Attention::kGqa;
  std::int64_t num_heads = 0;      // H
  std::int64_t num_key_heads = 0;  // G; H for expanded MLA
  RopeConfig rope;
  double softmax_scale = 1;  // with YaRN's factor, and LongCat-Flash's of the queries

  // Of streaming modules: the same, unless the checkpoint says otherwise (plan.h, StreamingRope).
  RopeConfig streaming_rope;
  double streaming_softmax_scale = 1;
  bool has_rope_by_kind = false;
  bool sink_is_capped = false;

  // GQA
  std::int64_t head_size = 0;  // D = V
  bool qk_norm = false;        // RMS norm of each q and k head
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;

  // MLA
  std::int64_t q_lora_rank = 0;   // 0: q_proj without a low-rank step
  std::int64_t kv_lora_rank = 0;  // R
  std::int64_t nope_size = 0;     // head size without rotation
  std::int64_t rope_size = 0;     // P
  std::int64_t v_size = 0;        // V
  double latent_norm_eps = 1e-6;  // of the norms of both latents
  double latent_scale = 1;        // of the normed latent that keys and values come from

  // Layers past num_layers that draft tokens (DeepSeek-V3's MTP): in the checkpoint, not run.
  std::int64_t num_draft_layers = 0;

  std::int64_t num_modules() const { return num_layers * modules_per_layer; }
  std::int64_t qk_size() const {  // of expanded heads
    return attention == Attention::kMla ? nope_size + rope_size : head_size;
  }
  std::int64_t value_size() const { return attention == Attention::kMla ? v_size : head_size; }
  // Elements of one cached token of one module: MLA R + P, GQA G * (D + V).
  std::int64_t kv_row_size() const {
    return attention == Attention::kMla ? kv_lora_rank + rope_size : num_key_heads * 2 * head_size;
  }
};

// Reads a config.json of any registered family; every value is checked (ranges, divisibility,
// overflow) before anything is allocated. `place` begins error lines.
// Throws Error(kBadInput).
ModelConfig read_model_config(const Json& config, const std::string& place);

// The families that read_model_config knows, by Hugging Face's model_type.
std::vector<std::string> model_families();

}  // namespace loza
