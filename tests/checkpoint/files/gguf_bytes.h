#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "loza/checkpoint/dequantize.h"
#include "loza/checkpoint/gguf_file.h"

namespace loza::testing {

template <typename T>
std::string raw(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

inline std::string raw_string(const std::string& text) {
  return raw<std::uint64_t>(text.size()) + text;
}

// Writes GGUF files, right ones and, by its public fields, wrong ones in any place.
struct GgufBytes {
  struct Value {
    std::string key;
    std::uint32_t type;
    std::string bytes;
  };
  struct Tensor {
    std::string name;
    std::vector<std::uint64_t> shape;  // in the file's order: innermost first
    std::uint32_t type = 0;
    std::string data;
    std::optional<std::uint64_t> offset;  // else the next one
    std::optional<std::uint32_t> rank;    // else the shape's
  };

  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::optional<std::uint64_t> num_tensors, num_values;
  std::vector<Value> values;
  std::vector<Tensor> tensors;
  std::uint64_t alignment = 32;

  Value& set(const std::string& key, GgufType type, const std::string& bytes) {
    for (Value& value : values) {
      if (value.key == key) return value = {key, static_cast<std::uint32_t>(type), bytes};
    }
    values.push_back({key, static_cast<std::uint32_t>(type), bytes});
    return values.back();
  }
  void u32(const std::string& key, std::uint32_t value) { set(key, GgufType::kU32, raw(value)); }
  void f32(const std::string& key, float value) { set(key, GgufType::kF32, raw(value)); }
  void flag(const std::string& key, bool value) {
    set(key, GgufType::kBool, raw<std::uint8_t>(value));
  }
  void text(const std::string& key, const std::string& value) {
    set(key, GgufType::kString, raw_string(value));
  }
  void texts(const std::string& key, const std::vector<std::string>& items) {
    std::string bytes =
        raw(static_cast<std::uint32_t>(GgufType::kString)) + raw<std::uint64_t>(items.size());
    for (const std::string& item : items) bytes += raw_string(item);
    set(key, GgufType::kArray, bytes);
  }
  void i32s(const std::string& key, const std::vector<std::int32_t>& items) {
    std::string bytes =
        raw(static_cast<std::uint32_t>(GgufType::kI32)) + raw<std::uint64_t>(items.size());
    for (const std::int32_t item : items) bytes += raw(item);
    set(key, GgufType::kArray, bytes);
  }
  void remove(const std::string& key) {
    std::erase_if(values, [&](const Value& value) { return value.key == key; });
  }

  // Data of the right size, of bytes that are small numbers in every type.
  Tensor& tensor(const std::string& name, const std::vector<std::uint64_t>& shape,
                 GgmlType type = GgmlType::kF32) {
    const GgmlBlock block = ggml_block(type);
    std::uint64_t num_values = 1;
    for (const std::uint64_t size : shape) num_values *= size;
    std::string data(num_values / block.num_values * block.num_bytes, '\0');
    for (std::size_t i = 0; i < data.size(); ++i) {
      data[i] = static_cast<char>((i * 37 + name.size() * 11 + tensors.size()) % 59);
    }
    tensors.push_back({name, shape, static_cast<std::uint32_t>(type), data, {}, {}});
    return tensors.back();
  }
  Tensor& tensor_named(const std::string& name) {
    for (Tensor& t : tensors) {
      if (t.name == name) return t;
    }
    return tensors.front();
  }
  void remove_tensor(const std::string& name) {
    std::erase_if(tensors, [&](const Tensor& t) { return t.name == name; });
  }

  std::string header() const {
    std::string bytes = magic + raw(version) + raw(num_tensors.value_or(tensors.size())) +
                        raw(num_values.value_or(values.size()));
    for (const Value& value : values) {
      bytes += raw_string(value.key) + raw(value.type) + value.bytes;
    }
    std::uint64_t offset = 0;
    for (const Tensor& t : tensors) {
      bytes +=
          raw_string(t.name) + raw(t.rank.value_or(static_cast<std::uint32_t>(t.shape.size())));
      for (const std::uint64_t size : t.shape) bytes += raw(size);
      bytes += raw(t.type) + raw(t.offset.value_or(offset));
      offset += padded(t.data.size());
    }
    return bytes;
  }
  std::string bytes() const {
    std::string bytes = header();
    bytes.resize(padded(bytes.size()), '\0');
    for (const Tensor& t : tensors) {
      bytes += t.data;
      bytes.resize(bytes.size() + padded(t.data.size()) - t.data.size(), '\0');
    }
    return bytes;
  }

 private:
  std::uint64_t padded(std::uint64_t size) const {
    return (size + alignment - 1) / alignment * alignment;
  }
};

// The smallest model that import accepts: 1 layer, hidden 64, 4 heads of 16 and 2 key heads,
// feed-forward 96, 8 tokens, tied.
inline GgufBytes tiny_gguf(const std::string& architecture = "llama") {
  GgufBytes file;
  file.text("general.architecture", architecture);
  const auto key = [&](const char* name) { return architecture + "." + name; };
  file.u32(key("block_count"), 1);
  file.u32(key("context_length"), 512);
  file.u32(key("embedding_length"), 64);
  file.u32(key("feed_forward_length"), 96);
  file.u32(key("attention.head_count"), 4);
  file.u32(key("attention.head_count_kv"), 2);
  file.f32(key("attention.layer_norm_rms_epsilon"), 1e-5f);
  file.f32(key("rope.freq_base"), 100000.0f);
  file.text("tokenizer.ggml.model", "gpt2");
  file.text("tokenizer.ggml.pre", "smollm");
  file.texts("tokenizer.ggml.tokens", {"<|end|>", "a", "b", "ab", "c", "abc", "<tool>", "[PAD7]"});
  file.i32s("tokenizer.ggml.token_type", {3, 1, 1, 1, 1, 1, 4, 5});
  file.texts("tokenizer.ggml.merges", {"a b", "ab c"});
  file.u32("tokenizer.ggml.bos_token_id", 0);
  file.u32("tokenizer.ggml.eos_token_id", 0);
  file.text("tokenizer.chat_template", "{{ messages }}");
  file.tensor("token_embd.weight", {64, 8}, GgmlType::kQ8_0);
  file.tensor("blk.0.attn_norm.weight", {64});
  file.tensor("blk.0.attn_q.weight", {64, 64});
  file.tensor("blk.0.attn_k.weight", {64, 32}, GgmlType::kQ4_1);
  file.tensor("blk.0.attn_v.weight", {64, 32}, GgmlType::kF16);
  file.tensor("blk.0.attn_output.weight", {64, 64});
  if (architecture == "qwen2") {
    file.tensor("blk.0.attn_q.bias", {64});
    file.tensor("blk.0.attn_k.bias", {32});
    file.tensor("blk.0.attn_v.bias", {32});
  }
  if (architecture == "qwen3") {
    file.tensor("blk.0.attn_q_norm.weight", {16});
    file.tensor("blk.0.attn_k_norm.weight", {16});
  }
  file.tensor("blk.0.ffn_norm.weight", {64});
  file.tensor("blk.0.ffn_gate.weight", {64, 96});
  file.tensor("blk.0.ffn_up.weight", {64, 96});
  file.tensor("blk.0.ffn_down.weight", {96, 64});
  file.tensor("output_norm.weight", {64});
  return file;
}

}  // namespace loza::testing
