#include <torch/torch.h>

#include <cmath>
#include <utility>

#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/base/json.h"
#include "loza/base/random.h"
#include "loza/base/utf8.h"
#include "loza/model/families/families.h"
#include "loza/model/new_model.h"
#include "loza/model/transformer.h"
#include "loza/tokenizer/byte_alphabet.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace loza {
namespace {

// The tokenizer: 256 bytes, a few merges, special tokens behind them.
constexpr std::int64_t kVocabSize = 320;  // room is left, as in most checkpoints

const std::vector<std::string>& special_tokens() {
  static const std::vector<std::string> tokens = {"<|begin|>", "<|end|>", "<|im_start|>",
                                                  "<|im_end|>"};
  return tokens;
}
constexpr const char* kChatTemplate =
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

// Pairs in the order in which they merge; \xC4\xA0 spells a space (U+0120).
const std::vector<std::pair<std::string, std::string>>& merges() {
  static const std::string space = "\xC4\xA0";
  static const std::vector<std::pair<std::string, std::string>> pairs = {
      {"t", "h"},   {"i", "n"},         {"e", "r"},   {"a", "n"},         {"r", "e"},
      {"o", "n"},   {"th", "e"},        {space, "a"}, {space, "the"},     {"in", "g"},
      {"an", "d"},  {space, "and"},     {"i", "s"},   {space, "is"},      {"o", "r"},
      {"e", "n"},   {space, "o"},       {"l", "l"},   {space + "o", "f"}, {"i", "t"},
      {space, "t"}, {space + "t", "o"}, {"e", "d"},   {"l", "i"},         {"li", "n"},
      {"lin", "e"},
  };
  return pairs;
}

std::string spelled(int byte) {
  std::string text;
  append_utf8(text, byte_to_char(static_cast<unsigned char>(byte)));
  return text;
}

std::int64_t first_special_id() { return 256 + static_cast<std::int64_t>(merges().size()); }

Json tokenizer_json() {
  Json vocab = Json::object(), merge_list = Json::array(), added = Json::array();
  for (int byte = 0; byte < 256; ++byte) vocab[spelled(byte)] = byte;
  std::int64_t id = 256;
  for (const auto& [left, right] : merges()) {
    vocab[left + right] = id++;
    merge_list.push_back(Json::array({left, right}));
  }
  for (const std::string& token : special_tokens()) {
    added.push_back({{"id", id++},
                     {"content", token},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "Sequence"},
            {"pretokenizers",
             Json::array({{{"type", "Digits"}, {"individual_digits", true}}, byte_level})}}},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", merge_list}}}};
}

Json tokenizer_config() {
  return {{"tokenizer_class", "PreTrainedTokenizerFast"},
          {"bos_token", special_tokens()[0]},
          {"eos_token", special_tokens()[1]},
          {"clean_up_tokenization_spaces", false},
          {"model_max_length", 4096},
          {"chat_template", kChatTemplate}};
}

Json shared_config(const std::string& model_type, const std::string& architecture) {
  return {{"architectures", Json::array({architecture})},
          {"model_type", model_type},
          {"vocab_size", kVocabSize},
          {"hidden_size", 64},
          {"intermediate_size", 160},
          {"num_hidden_layers", 4},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"max_position_embeddings", 4096},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 10000.0},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", false},
          {"bos_token_id", first_special_id()},
          {"eos_token_id", first_special_id() + 1},
          {"torch_dtype", "float32"}};
}

Json qwen3_config() {
  Json config = shared_config("qwen3", "Qwen3ForCausalLM");
  config["head_dim"] = 32;
  config["tie_word_embeddings"] = true;
  return config;
}

Json mla_config(const std::string& model_type, const std::string& architecture) {
  Json config = shared_config(model_type, architecture);
  config["num_key_value_heads"] = 4;
  config["q_lora_rank"] = 24;
  config["kv_lora_rank"] = 32;
  config["qk_nope_head_dim"] = 16;
  config["qk_rope_head_dim"] = 8;
  config["v_head_dim"] = 16;
  return config;
}

void add_experts(Json& config) {
  config["n_routed_experts"] = 8;
  config["n_shared_experts"] = 1;
  config["num_experts_per_tok"] = 2;
  config["moe_intermediate_size"] = 48;
  config["first_k_dense_replace"] = 1;
  config["n_group"] = 4;
  config["topk_group"] = 2;
}

Json deepseek_v2_config() {
  Json config = mla_config("deepseek_v2", "DeepseekV2ForCausalLM");
  add_experts(config);
  config["topk_method"] = "group_limited_greedy";
  config["scoring_func"] = "softmax";
  config["norm_topk_prob"] = false;
  config["routed_scaling_factor"] = 4.0;
  return config;
}

// Every layer dense, queries without a low-rank step.
Json deepseek_v2_dense_config() {
  Json config = mla_config("deepseek_v2", "DeepseekV2ForCausalLM");
  config["q_lora_rank"] = nullptr;
  add_experts(config);
  config["first_k_dense_replace"] = config["num_hidden_layers"];
  config["topk_method"] = "greedy";
  config["routed_scaling_factor"] = 1.0;
  return config;
}

Json deepseek_v3_config() {
  Json config = mla_config("deepseek_v3", "DeepseekV3ForCausalLM");
  add_experts(config);
  config["topk_method"] = "noaux_tc";
  config["scoring_func"] = "sigmoid";
  config["norm_topk_prob"] = true;
  config["routed_scaling_factor"] = 2.5;
  config["num_nextn_predict_layers"] = 0;
  config["rope_interleave"] = true;
  return config;
}

// Two modules a layer; experts, some of them zero experts, beside the dense feed-forwards.
Json longcat_flash_config() {
  Json config = mla_config("longcat_flash", "LongcatFlashForCausalLM");
  config.erase("num_hidden_layers");
  config.erase("intermediate_size");
  config["num_layers"] = 2;
  config["ffn_hidden_size"] = 160;
  config["head_dim"] = config["qk_rope_head_dim"];
  config["n_routed_experts"] = 8;
  config["zero_expert_num"] = 4;
  config["moe_topk"] = 3;
  config["expert_ffn_hidden_size"] = 48;
  config["routed_scaling_factor"] = 2.0;
  return config;
}

struct TinyFamily {
  std::string name;
  Json config;
};

const std::vector<TinyFamily>& families_of_tiny() {
  static const std::vector<TinyFamily> rows = {
      {"llama", shared_config("llama", "LlamaForCausalLM")},
      {"qwen2", shared_config("qwen2", "Qwen2ForCausalLM")},
      {"qwen3", qwen3_config()},
      {"deepseek_v2", deepseek_v2_config()},
      {"deepseek_v2_dense", deepseek_v2_dense_config()},
      {"deepseek_v3", deepseek_v3_config()},
      {"longcat_flash", longcat_flash_config()},
  };
  return rows;
}

// Uniform numbers (exact on every platform), spread so that each layer adds to the residual
// stream what it holds already and logits have a spread of about one: unlike weights that
// training begins with, these make every part of a model count. (A tied embedding is
// the head too, and takes the head's spread.)
at::Tensor random_weight(const ParameterShape& parameter, const ModelConfig& config,
                         Random& random) {
  const bool is_head = config.tied_embeddings;
  double mean = 0, deviation;
  if (families::is_norm(parameter.name)) {
    mean = 1;
    deviation = 0.2;
  } else if (parameter.name.ends_with("correction_bias") &&
             config.moe->scoring == MoeConfig::Scoring::kSoftmax) {
    // Less than the scores that it is added to, of which all choices share one.
    deviation = 0.3 / static_cast<double>(config.moe->num_choices());
  } else if (parameter.name.ends_with("bias")) {
    deviation = 0.1;
  } else if (parameter.name.ends_with("embed_tokens.weight") && !is_head) {
    deviation = 1;
  } else {
    deviation = 1 / std::sqrt(static_cast<double>(parameter.shape.back()));
  }
  at::Tensor weight = at::empty(parameter.shape, at::kFloat);
  float* values = weight.data_ptr<float>();
  for (std::int64_t i = 0; i < weight.numel(); ++i) {
    const double unit = (2 * random.uniform() - 1) * std::sqrt(3.0);  // deviation 1
    values[i] = static_cast<float>(mean + deviation * unit);
  }
  return weight;
}

void write_json(const std::filesystem::path& path, const Json& json) {
  write_file_atomic(path, json.dump(2) + "\n");
}

}  // namespace

std::vector<std::string> tiny_families() {
  std::vector<std::string> names;
  for (const TinyFamily& family : families_of_tiny()) names.push_back(family.name);
  return names;
}

void make_tiny(const std::string& family, const std::filesystem::path& target, std::uint64_t seed) {
  const TinyFamily* found = nullptr;
  for (const TinyFamily& row : families_of_tiny()) {
    if (row.name == family) found = &row;
  }
  if (found == nullptr) {
    throw_usage("--family", fmt::format("one of {}", fmt::join(tiny_families(), ", ")), family);
  }
  const ModelConfig config = read_model_config(found->config, family);
  Random random(seed);
  StagedFolder folder(target);
  write_new_weights(folder.path(), config, at::kFloat, [&](const ParameterShape& parameter) {
    return random_weight(parameter, config, random);
  });
  write_json(folder.path() / "config.json", found->config);
  write_json(folder.path() / "generation_config.json",
             {{"bos_token_id", found->config["bos_token_id"]},
              {"eos_token_id", found->config["eos_token_id"]}});
  write_json(folder.path() / "tokenizer.json", tokenizer_json());
  write_json(folder.path() / "tokenizer_config.json", tokenizer_config());
  folder.commit();
}

}  // namespace loza
