#include "loza/checkpoint/gguf_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numbers>
#include <set>
#include <utility>

#include "loza/base/error.h"

namespace loza {
namespace {

using Shape = std::vector<std::int64_t>;

struct Architecture {
  const char* gguf_name;
  const char* model_type;
  const char* class_name;
  bool interleaves_heads;  // llama.cpp reorders the rows of q and k
  bool has_qkv_bias;       // always; else only where the file has one
  bool has_qk_norm;
};

constexpr Architecture kArchitectures[] = {
    {"llama", "llama", "LlamaForCausalLM", true, false, false},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", false, true, false},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", false, false, true},
};

const Architecture& architecture_of(const GgufFile& file) {
  const std::string_view name = file.string("general.architecture");
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if (name == architecture.gguf_name) return architecture;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", architecture.gguf_name);
  }
  throw_bad_input(file.place() + ": general.architecture", "one of " + known, quote_name(name));
}

// The keys under the architecture's name ("llama.block_count").
class Keys {
 public:
  Keys(const GgufFile& file, const Architecture& architecture)
      : file_(file), prefix_(std::string(architecture.gguf_name) + ".") {}

  std::string full(const std::string& key) const { return prefix_ + key; }
  std::string place(const std::string& key) const { return file_.place() + ": " + full(key); }
  bool has(const std::string& key) const { return file_.has(full(key)); }

  // From 1 on; products of two of them fit in 64 bits.
  std::int64_t size(const std::string& key) const {
    const std::int64_t value = file_.integer(full(key));
    if (value < 1 || value > std::numeric_limits<std::int32_t>::max()) {
      throw_bad_input(place(key), "a number from 1 to 2^31 - 1", fmt::format("{}", value));
    }
    return value;
  }
  std::int64_t size_or(const std::string& key, std::int64_t fallback) const {
    return has(key) ? size(key) : fallback;
  }
  double positive(const std::string& key) const {
    const double value = file_.number(full(key));
    if (value <= 0) throw_bad_input(place(key), "a number above 0", fmt::format("{}", value));
    return value;
  }
  double positive_or(const std::string& key, double fallback) const {
    return has(key) ? positive(key) : fallback;
  }
  std::string_view string(const std::string& key) const { return file_.string(full(key)); }

  // A key that may be there with this value alone: another would mean another computation.
  void check_integer(const std::string& key, std::int64_t value) const {
    if (!has(key)) return;
    const std::int64_t got = file_.integer(full(key));
    if (got != value) throw_bad_input(place(key), fmt::format("{}", value), fmt::format("{}", got));
  }

  void check_known(const std::set<std::string>& known) const {
    for (const auto& [key, value] : file_.metadata()) {
      if (!key.starts_with(prefix_) || known.count(key.substr(prefix_.size())) != 0) continue;
      throw_bad_input(fmt::format("{}: {}", file_.place(), quote_name(key)),
                      "a key whose meaning loza knows", "another");
    }
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

struct Sizes {
  std::int64_t hidden, intermediate, layers, heads, key_heads, head_dim, vocab, context;
};

Sizes read_sizes(const GgufFile& file, const Keys& keys) {
  Sizes s{};
  s.hidden = keys.size("embedding_length");
  s.intermediate = keys.size("feed_forward_length");
  s.layers = keys.size("block_count");
  s.heads = keys.size("attention.head_count");
  s.key_heads = keys.size_or("attention.head_count_kv", s.heads);
  s.context = keys.size("context_length");
  if (s.heads % s.key_heads != 0) {
    throw_bad_input(keys.place("attention.head_count_kv"),
                    fmt::format("a divisor of {} heads", s.heads), fmt::format("{}", s.key_heads));
  }
  if (!keys.has("attention.key_length") && s.hidden % s.heads != 0) {
    throw_bad_input(keys.place("attention.head_count"),
                    fmt::format("a divisor of embedding_length {}", s.hidden),
                    fmt::format("{}", s.heads));
  }
  s.head_dim = keys.size_or("attention.key_length", s.hidden / s.heads);
  if (s.head_dim % 2 != 0) {
    throw_bad_input(file.place(), "an even head size", fmt::format("{}", s.head_dim));
  }
  keys.check_integer("attention.value_length", s.head_dim);
  keys.check_integer("rope.dimension_count", s.head_dim);
  keys.check_integer("expert_count", 0);
  keys.check_integer("expert_used_count", 0);
  keys.check_integer("attention.sliding_window", 0);
  return s;
}

// The file's tensors by name; remembers which were taken.
class TensorTable {
 public:
  explicit TensorTable(const GgufFile& file) : file_(file) {
    for (const GgufTensor& tensor : file.tensors()) by_name_[tensor.name] = &tensor;
  }

  bool has(const std::string& name) const { return by_name_.count(name) != 0; }

  const GgufTensor& take(const std::string& name, const Shape& shape) {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) {
      throw_bad_input(file_.place(), fmt::format("a tensor {}", quote_name(name)), "none");
    }
    if (found->second->shape != shape) {
      throw_bad_input(fmt::format("{}: tensor {}", file_.place(), quote_name(name)),
                      fmt::format("shape [{}]", fmt::join(shape, ", ")),
                      fmt::format("[{}]", fmt::join(found->second->shape, ", ")));
    }
    taken_.insert(name);
    return *found->second;
  }

  // The embedding says how many tokens there are.
  std::int64_t num_rows(const std::string& name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? 0 : found->second->shape.front();
  }

  void check_all_taken() const {
    for (const auto& [name, tensor] : by_name_) {
      if (taken_.count(name) != 0) continue;
      throw_bad_input(fmt::format("{}: tensor {}", file_.place(), quote_name(name)),
                      "a tensor that the architecture has", "another");
    }
  }

 private:
  const GgufFile& file_;
  std::map<std::string, const GgufTensor*> by_name_;
  std::set<std::string> taken_;
};

void map_layer(const Architecture& architecture, const Sizes& s, std::int64_t layer,
               bool has_attention_bias, bool has_mlp_bias, TensorTable& table,
               std::vector<GgufModel::Tensor>& out) {
  const auto add = [&](const char* from, const char* to, const Shape& shape,
                       std::int64_t num_interleaved_heads = 0) {
    const GgufTensor& tensor = table.take(fmt::format("blk.{}.{}", layer, from), shape);
    if (shape.size() == 1 && num_interleaved_heads != 0 &&
        ggml_block(tensor.type).num_values != 1) {
      throw_bad_input(fmt::format("tensor {}", quote_name(tensor.name)),
                      "a bias in F32, F16 or BF16", ggml_type_name(tensor.type));
    }
    out.push_back({&tensor, fmt::format("model.layers.{}.{}", layer, to), num_interleaved_heads});
  };
  const std::int64_t q_size = s.heads * s.head_dim, k_size = s.key_heads * s.head_dim;
  const std::int64_t q_heads = architecture.interleaves_heads ? s.heads : 0;
  const std::int64_t k_heads = architecture.interleaves_heads ? s.key_heads : 0;

  add("attn_norm.weight", "input_layernorm.weight", {s.hidden});
  add("attn_q.weight", "self_attn.q_proj.weight", {q_size, s.hidden}, q_heads);
  add("attn_k.weight", "self_attn.k_proj.weight", {k_size, s.hidden}, k_heads);
  add("attn_v.weight", "self_attn.v_proj.weight", {k_size, s.hidden});
  add("attn_output.weight", "self_attn.o_proj.weight", {s.hidden, q_size});
  if (architecture.has_qkv_bias || has_attention_bias) {
    add("attn_q.bias", "self_attn.q_proj.bias", {q_size}, q_heads);
    add("attn_k.bias", "self_attn.k_proj.bias", {k_size}, k_heads);
    add("attn_v.bias", "self_attn.v_proj.bias", {k_size});
  }
  if (has_attention_bias) add("attn_output.bias", "self_attn.o_proj.bias", {s.hidden});
  if (architecture.has_qk_norm) {
    add("attn_q_norm.weight", "self_attn.q_norm.weight", {s.head_dim});
    add("attn_k_norm.weight", "self_attn.k_norm.weight", {s.head_dim});
  }
  add("ffn_norm.weight", "post_attention_layernorm.weight", {s.hidden});
  add("ffn_gate.weight", "mlp.gate_proj.weight", {s.intermediate, s.hidden});
  add("ffn_up.weight", "mlp.up_proj.weight", {s.intermediate, s.hidden});
  add("ffn_down.weight", "mlp.down_proj.weight", {s.hidden, s.intermediate});
  if (has_mlp_bias) {
    add("ffn_gate.bias", "mlp.gate_proj.bias", {s.intermediate});
    add("ffn_up.bias", "mlp.up_proj.bias", {s.intermediate});
    add("ffn_down.bias", "mlp.down_proj.bias", {s.hidden});
  }
}

// Llama 3's scaling of the rotary frequencies, which GGUF keeps as a tensor of divisors
// [head_dim / 2]: 1 for the quick ones, `factor` for the slow ones, a blend between. Its other
// numbers are the same in all of Meta's models, so the tensor tells whether it is that.
Json llama3_scaling(const GgufTensor& tensor, double theta, const std::string& place) {
  constexpr double kLow = 1, kHigh = 4, kOriginalLen = 8192, kTolerance = 1e-4;
  const auto num_pairs = static_cast<std::size_t>(tensor.shape[0]);
  std::vector<float> divisors(num_pairs);
  dequantize(tensor.type, tensor.bytes, divisors);
  const double factor = *std::max_element(divisors.begin(), divisors.end());
  for (std::size_t i = 0; i < num_pairs; ++i) {
    const double exponent = static_cast<double>(i) / static_cast<double>(num_pairs);
    const double wavelength = 2 * std::numbers::pi * std::pow(theta, exponent);
    const double blend = std::clamp((kOriginalLen / wavelength - kLow) / (kHigh - kLow), 0.0, 1.0);
    const double expected = 1 / ((1 - blend) / factor + blend);
    if (std::abs(divisors[i] - expected) <= kTolerance * expected) continue;
    throw_bad_input(place, fmt::format("Llama 3's divisors, {} at {}", expected, i),
                    fmt::format("{}", divisors[i]));
  }
  return {{"rope_type", "llama3"},
          {"factor", factor},
          {"low_freq_factor", kLow},
          {"high_freq_factor", kHigh},
          {"original_max_position_embeddings", static_cast<std::int64_t>(kOriginalLen)}};
}

// null when positions are not scaled.
Json rope_scaling(const GgufFile& file, const Keys& keys, const Sizes& s, double theta,
                  TensorTable& table) {
  constexpr const char* kDivisors = "rope_freqs.weight";
  const std::string_view type =
      keys.has("rope.scaling.type") ? keys.string("rope.scaling.type") : "none";
  if (table.has(kDivisors)) {
    const GgufTensor& divisors = table.take(kDivisors, {s.head_dim / 2});
    if (type != "none") {
      throw_bad_input(keys.place("rope.scaling.type"), "none beside rope_freqs.weight",
                      quote_name(type));
    }
    return llama3_scaling(divisors, theta,
                          fmt::format("{}: tensor {}", file.place(), quote_name(kDivisors)));
  }
  if (type == "none") return nullptr;
  if (type == "linear") {
    return {{"rope_type", "linear"}, {"factor", keys.positive("rope.scaling.factor")}};
  }
  if (type == "yarn") {
    return {
        {"rope_type", "yarn"},
        {"factor", keys.positive("rope.scaling.factor")},
        {"original_max_position_embeddings", keys.size("rope.scaling.original_context_length")}};
  }
  throw_bad_input(keys.place("rope.scaling.type"), "none, linear or yarn", quote_name(type));
}

void set_token_id(const GgufFile& file, const char* key, const char* name, Json& config) {
  config[name] = file.has(key) ? Json(file.integer(key)) : Json(nullptr);
}

}  // namespace

GgufModel map_gguf_model(const GgufFile& file) {
  const Architecture& architecture = architecture_of(file);
  const Keys keys(file, architecture);
  keys.check_known({"context_length", "embedding_length", "block_count", "feed_forward_length",
                    "vocab_size", "attention.head_count", "attention.head_count_kv",
                    "attention.key_length", "attention.value_length", "attention.sliding_window",
                    "attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base",
                    "rope.scaling.type", "rope.scaling.factor", "rope.scaling.finetuned",
                    "rope.scaling.original_context_length", "expert_count", "expert_used_count"});
  Sizes s = read_sizes(file, keys);
  TensorTable table(file);
  GgufModel model;

  s.vocab = table.num_rows("token_embd.weight");
  keys.check_integer("vocab_size", s.vocab);
  model.tensors.push_back(
      {&table.take("token_embd.weight", {s.vocab, s.hidden}), "model.embed_tokens.weight"});
  const bool has_attention_bias = !architecture.has_qkv_bias && table.has("blk.0.attn_q.bias");
  const bool has_mlp_bias = table.has("blk.0.ffn_gate.bias");
  for (std::int64_t layer = 0; layer < s.layers; ++layer) {
    map_layer(architecture, s, layer, has_attention_bias, has_mlp_bias, table, model.tensors);
  }
  model.tensors.push_back({&table.take("output_norm.weight", {s.hidden}), "model.norm.weight"});
  const bool is_tied = !table.has("output.weight");
  if (!is_tied) {
    model.tensors.push_back({&table.take("output.weight", {s.vocab, s.hidden}), "lm_head.weight"});
  }
  const double theta = keys.positive_or("rope.freq_base", 10000.0);
  const Json scaling = rope_scaling(file, keys, s, theta, table);
  table.check_all_taken();

  model.config = {{"architectures", Json::array({architecture.class_name})},
                  {"model_type", architecture.model_type},
                  {"vocab_size", s.vocab},
                  {"hidden_size", s.hidden},
                  {"intermediate_size", s.intermediate},
                  {"num_hidden_layers", s.layers},
                  {"num_attention_heads", s.heads},
                  {"num_key_value_heads", s.key_heads},
                  {"head_dim", s.head_dim},
                  {"hidden_act", "silu"},
                  {"max_position_embeddings", s.context},
                  {"rms_norm_eps", keys.positive("attention.layer_norm_rms_epsilon")},
                  {"rope_theta", theta},
                  {"rope_scaling", scaling},
                  {"attention_bias", architecture.has_qkv_bias || has_attention_bias},
                  {"tie_word_embeddings", is_tied}};
  if (has_mlp_bias) model.config["mlp_bias"] = true;
  set_token_id(file, "tokenizer.ggml.bos_token_id", "bos_token_id", model.config);
  set_token_id(file, "tokenizer.ggml.eos_token_id", "eos_token_id", model.config);
  set_token_id(file, "tokenizer.ggml.padding_token_id", "pad_token_id", model.config);
  return model;
}

std::int64_t interleaved_source_row(std::int64_t row, std::int64_t num_rows,
                                    std::int64_t num_heads) {
  const std::int64_t head_dim = num_rows / num_heads, half = head_dim / 2;
  const std::int64_t head = row / head_dim, in_head = row % head_dim;
  return head * head_dim + 2 * (in_head % half) + in_head / half;
}

}  // namespace loza
