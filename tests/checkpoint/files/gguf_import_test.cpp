#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numbers>
#include <set>
#include <string>
#include <vector>

#include "loza/base/float16.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/checkpoint/gguf.h"
#include "loza/checkpoint/gguf_model.h"
#include "loza/checkpoint/gguf_tokenizer.h"
#include "tests/checkpoint/files/gguf_bytes.h"
#include "tests/support/hostile.h"
#include "tests/support/temp_folder.h"

namespace loza {
namespace {
namespace fs = std::filesystem;
using testing::bytes_of;
using testing::GgufBytes;
using testing::raw;
using testing::TempFolder;
using testing::tiny_gguf;

std::vector<float> floats_of(const TensorEntry& entry) {
  std::vector<float> values(entry.bytes.size() / sizeof(float));
  std::memcpy(values.data(), entry.bytes.data(), entry.bytes.size());
  return values;
}

std::vector<float> source_values(const GgufBytes::Tensor& tensor) {
  std::uint64_t count = 1;
  for (const std::uint64_t size : tensor.shape) count *= size;
  std::vector<float> values(count);
  dequantize(static_cast<GgmlType>(tensor.type),
             std::as_bytes(std::span(tensor.data.data(), tensor.data.size())), values);
  return values;
}

TEST(ImportGguf, WritesAFolderThatOpens) {
  const TempFolder folder;
  for (const std::string architecture : {"llama", "qwen2", "qwen3"}) {
    const fs::path out = folder / architecture;
    const fs::path file = folder.write("a.gguf", tiny_gguf(architecture).bytes());
    const GgufImported imported = import_gguf(file, out, {});
    const Checkpoint checkpoint(out);
    EXPECT_EQ(imported.num_tensors, static_cast<std::int64_t>(checkpoint.tensors().size()));
    EXPECT_EQ(imported.weight_bytes, checkpoint.tensor_bytes());
    EXPECT_EQ(imported.num_parameters * 4, static_cast<std::int64_t>(checkpoint.tensor_bytes()));
    const Json& config = checkpoint.config();
    EXPECT_EQ(config["architectures"][0], imported.architecture);
    EXPECT_EQ(config["model_type"], architecture);
    EXPECT_EQ(config["vocab_size"], 8);
    EXPECT_EQ(config["hidden_size"], 64);
    EXPECT_EQ(config["intermediate_size"], 96);
    EXPECT_EQ(config["num_hidden_layers"], 1);
    EXPECT_EQ(config["num_attention_heads"], 4);
    EXPECT_EQ(config["num_key_value_heads"], 2);
    EXPECT_EQ(config["head_dim"], 16);
    EXPECT_EQ(config["max_position_embeddings"], 512);
    EXPECT_EQ(config["rms_norm_eps"], 1e-5);
    EXPECT_EQ(config["rope_theta"], 100000.0);
    EXPECT_TRUE(config["rope_scaling"].is_null());
    EXPECT_EQ(config["tie_word_embeddings"], true);
    EXPECT_EQ(config["torch_dtype"], "float32");
    EXPECT_EQ(checkpoint.generation_config().dump(), R"({"bos_token_id":0,"eos_token_id":0})");
    EXPECT_EQ(checkpoint.has("model.layers.0.self_attn.q_proj.bias"), architecture == "qwen2");
    EXPECT_EQ(checkpoint.has("model.layers.0.self_attn.q_norm.weight"), architecture == "qwen3");
    EXPECT_FALSE(checkpoint.has("lm_head.weight"));
    EXPECT_EQ(checkpoint.tensor("model.embed_tokens.weight").shape,
              (std::vector<std::int64_t>{8, 64}));
    EXPECT_EQ(checkpoint.tensor("model.layers.0.mlp.down_proj.weight").shape,
              (std::vector<std::int64_t>{64, 96}));
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(out)) names.insert(entry.path().filename());
    EXPECT_EQ(names,
              (std::set<std::string>{"config.json", "generation_config.json", "model.safetensors",
                                     "tokenizer.json", "tokenizer_config.json"}));
  }
}

// Each head's rows alternate between its two halves in llama files, and in no others.
TEST(ImportGguf, PutsTheRowsOfLlamaHeadsBack) {
  const TempFolder folder;
  for (const std::string architecture : {"llama", "qwen3"}) {
    GgufBytes bytes = tiny_gguf(architecture);
    import_gguf(folder.write("a.gguf", bytes.bytes()), folder / architecture, {});
    const Checkpoint checkpoint(folder / architecture);
    for (const auto& [letter, num_heads] : {std::pair{"q", 4}, std::pair{"k", 2}}) {
      const auto from =
          source_values(bytes.tensor_named(fmt::format("blk.0.attn_{}.weight", letter)));
      const auto to = floats_of(
          checkpoint.tensor(fmt::format("model.layers.0.self_attn.{}_proj.weight", letter)));
      ASSERT_EQ(from.size(), to.size());
      for (int head = 0; head < num_heads; ++head) {
        for (int half = 0; half < 2; ++half) {
          for (int i = 0; i < 8; ++i) {
            const int to_row = head * 16 + half * 8 + i;
            const int from_row = architecture == "llama" ? head * 16 + i * 2 + half : to_row;
            for (int c = 0; c < 64; ++c) {
              ASSERT_EQ(to[static_cast<std::size_t>(to_row * 64 + c)],
                        from[static_cast<std::size_t>(from_row * 64 + c)]);
            }
          }
        }
      }
    }
    EXPECT_EQ(floats_of(checkpoint.tensor("model.layers.0.self_attn.v_proj.weight")),
              source_values(bytes.tensor_named("blk.0.attn_v.weight")));
    EXPECT_EQ(floats_of(checkpoint.tensor("model.embed_tokens.weight")),
              source_values(bytes.tensor_named("token_embd.weight")));
  }
}

TEST(ImportGguf, TakesBiasesAndAnOutputOfItsOwn) {
  const TempFolder folder;
  GgufBytes bytes = tiny_gguf();
  const auto bias = [&](const char* name, std::uint64_t size) {
    GgufBytes::Tensor& t = bytes.tensor(name, {size});
    for (std::size_t i = 0; i < size; ++i) {
      const auto value = static_cast<float>(i);
      std::memcpy(t.data.data() + i * sizeof value, &value, sizeof value);
    }
  };
  bias("blk.0.attn_q.bias", 64);
  bias("blk.0.attn_k.bias", 32);
  bias("blk.0.attn_v.bias", 32);
  bias("blk.0.attn_output.bias", 64);
  bias("blk.0.ffn_gate.bias", 96);
  bias("blk.0.ffn_up.bias", 96);
  bias("blk.0.ffn_down.bias", 64);
  bytes.tensor("output.weight", {64, 8}, GgmlType::kQ5_1);
  import_gguf(folder.write("a.gguf", bytes.bytes()), folder / "out", {});
  const Checkpoint checkpoint(folder / "out");
  EXPECT_EQ(checkpoint.config()["attention_bias"], true);
  EXPECT_EQ(checkpoint.config()["mlp_bias"], true);
  EXPECT_EQ(checkpoint.config()["tie_word_embeddings"], false);
  EXPECT_EQ(floats_of(checkpoint.tensor("lm_head.weight")),
            source_values(bytes.tensor_named("output.weight")));
  const auto q = floats_of(checkpoint.tensor("model.layers.0.self_attn.q_proj.bias"));
  EXPECT_EQ(q[0], 0);
  EXPECT_EQ(q[1], 2);
  EXPECT_EQ(q[8], 1);
  EXPECT_EQ(q[16], 16);
  EXPECT_EQ(floats_of(checkpoint.tensor("model.layers.0.self_attn.v_proj.bias"))[5], 5);
}

TEST(ImportGguf, WritesTheDtypeAsked) {
  const TempFolder folder;
  const fs::path file = folder.write("a.gguf", tiny_gguf().bytes());
  import_gguf(file, folder / "fp32", {});
  import_gguf(file, folder / "bf16", {ImportDType::kBF16});
  import_gguf(file, folder / "fp16", {ImportDType::kF16});
  const Checkpoint fp32(folder / "fp32"), bf16(folder / "bf16"), fp16(folder / "fp16");
  EXPECT_EQ(bf16.config()["torch_dtype"], "bfloat16");
  EXPECT_EQ(fp16.config()["torch_dtype"], "float16");
  for (const auto& [name, entry] : fp32.tensors()) {
    const auto values = floats_of(*entry);
    ASSERT_EQ(bf16.tensor(name).dtype, "BF16");
    ASSERT_EQ(fp16.tensor(name).dtype, "F16");
    for (std::size_t i = 0; i < values.size(); ++i) {
      Float16 half;
      std::uint16_t brain;
      std::memcpy(&half.bits, fp16.tensor(name).bytes.data() + i * 2, 2);
      std::memcpy(&brain, bf16.tensor(name).bytes.data() + i * 2, 2);
      ASSERT_EQ(half.bits, Float16(values[i]).bits) << name;
      ASSERT_NEAR(std::bit_cast<float>(static_cast<std::uint32_t>(brain) << 16), values[i],
                  std::abs(values[i]) / 256 + 1e-38f);
    }
  }
}

TEST(ImportGguf, ReadsRopeScaling) {
  const TempFolder folder;
  const auto scaling_of = [&](const std::function<void(GgufBytes&)>& change) {
    GgufBytes bytes = tiny_gguf();
    change(bytes);
    const GgufFile file(folder.write("a.gguf", bytes.bytes()));
    return map_gguf_model(file).config["rope_scaling"];
  };
  EXPECT_TRUE(
      scaling_of([](GgufBytes& b) { b.text("llama.rope.scaling.type", "none"); }).is_null());
  EXPECT_EQ(scaling_of([](GgufBytes& b) {
              b.text("llama.rope.scaling.type", "linear");
              b.f32("llama.rope.scaling.factor", 2.5f);
            }).dump(),
            R"({"rope_type":"linear","factor":2.5})");
  EXPECT_EQ(scaling_of([](GgufBytes& b) {
              b.text("llama.rope.scaling.type", "yarn");
              b.f32("llama.rope.scaling.factor", 4);
              b.u32("llama.rope.scaling.original_context_length", 128);
            }).dump(),
            R"({"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":128})");
  // Llama 3.1's divisors, by its published formula.
  const Json llama3 = scaling_of([](GgufBytes& b) {
    std::string divisors;
    for (int i = 0; i < 8; ++i) {
      const double wavelength = 2 * std::numbers::pi * std::pow(100000.0, i / 8.0);
      double divisor = 8;
      if (wavelength < 8192.0 / 4) {
        divisor = 1;
      } else if (wavelength <= 8192.0) {
        const double smooth = (8192 / wavelength - 1) / 3;
        divisor = 1 / ((1 - smooth) / 8 + smooth);
      }
      divisors += raw(static_cast<float>(divisor));
    }
    b.tensor("rope_freqs.weight", {8}).data = divisors;
  });
  EXPECT_EQ(llama3.dump(),
            R"({"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,)"
            R"("original_max_position_embeddings":8192})");
}

Json tokenizer_of(const GgufBytes& bytes) {
  const TempFolder folder;
  const GgufFile file(folder.write("a.gguf", bytes.bytes()));
  return map_gguf_tokenizer(file, 8).tokenizer;
}

TEST(GgufTokenizer, KeepsIdsKindsAndMerges) {
  const Json tokenizer = tokenizer_of(tiny_gguf());
  const Json& model = tokenizer["model"];
  EXPECT_EQ(model["vocab"].dump(), R"({"<|end|>":0,"a":1,"b":2,"ab":3,"c":4,"abc":5})")
      << "<tool> follows all others and is left to added_tokens; [PAD7] is not in use";
  EXPECT_EQ(model["merges"].dump(), R"(["a b","ab c"])");
  const Json& added = tokenizer["added_tokens"];
  ASSERT_EQ(added.size(), 2u);
  EXPECT_EQ(added[0]["id"], 0);
  EXPECT_EQ(added[0]["content"], "<|end|>");
  EXPECT_EQ(added[0]["special"], true);
  EXPECT_EQ(added[1]["id"], 6);
  EXPECT_EQ(added[1]["special"], false);
  EXPECT_TRUE(tokenizer["post_processor"].is_null());
}

TEST(GgufTokenizer, KnowsThePreTokenizers) {
  GgufBytes bytes = tiny_gguf();
  EXPECT_EQ(
      tokenizer_of(bytes)["pre_tokenizer"].dump(),
      R"({"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},)"
      R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}]})");
  for (const char* name : {"gpt-2", "default"}) {
    bytes.text("tokenizer.ggml.pre", name);
    EXPECT_EQ(tokenizer_of(bytes)["pre_tokenizer"]["type"], "ByteLevel");
    EXPECT_EQ(tokenizer_of(bytes)["pre_tokenizer"]["use_regex"], true);
  }
  bytes.text("tokenizer.ggml.pre", "qwen2");
  Json tokenizer = tokenizer_of(bytes);
  EXPECT_EQ(tokenizer["normalizer"]["type"], "NFC");
  EXPECT_EQ(tokenizer["pre_tokenizer"]["pretokenizers"][0]["type"], "Split");
  EXPECT_EQ(tokenizer["pre_tokenizer"]["pretokenizers"][1]["use_regex"], false);
  EXPECT_EQ(tokenizer["model"]["ignore_merges"], false);
  bytes.text("tokenizer.ggml.pre", "llama-bpe");
  tokenizer = tokenizer_of(bytes);
  EXPECT_EQ(tokenizer["model"]["ignore_merges"], true);
  EXPECT_EQ(tokenizer["post_processor"]["single"][0]["SpecialToken"]["id"], "<|end|>");
  bytes.flag("tokenizer.ggml.add_bos_token", false);
  EXPECT_TRUE(tokenizer_of(bytes)["post_processor"].is_null());
  bytes.flag("tokenizer.ggml.add_eos_token", true);
  EXPECT_EQ(tokenizer_of(bytes)["post_processor"]["single"][1]["SpecialToken"]["id"], "<|end|>");
}

TEST(GgufTokenizer, KeepsAddedTokensInTheVocabularyWhenOthersFollow) {
  GgufBytes bytes = tiny_gguf();
  bytes.i32s("tokenizer.ggml.token_type", {3, 1, 1, 1, 1, 1, 4, 1});
  EXPECT_EQ(tokenizer_of(bytes)["model"]["vocab"].size(), 8u);
  bytes.i32s("tokenizer.ggml.token_type", {5, 1, 1, 1, 1, 1, 4, 3});
  EXPECT_EQ(tokenizer_of(bytes)["model"]["vocab"].size(), 7u) << "a hole would move later ids";
}

TEST(ImportGguf, EndsAtEveryEndToken) {
  const TempFolder folder;
  GgufBytes bytes = tiny_gguf();
  bytes.u32("tokenizer.ggml.eot_token_id", 6);
  bytes.u32("tokenizer.ggml.eom_token_id", 0);
  import_gguf(folder.write("a.gguf", bytes.bytes()), folder / "out", {});
  EXPECT_EQ(Checkpoint(folder / "out").generation_config()["eos_token_id"].dump(), "[0,6]");
}

TEST(ImportGguf, HostileModels) {
  const TempFolder folder;
  testing::HostileSuite suite("gguf models");
  const auto expect = [&](const std::string& name, const std::string& fragment,
                          const std::function<void(GgufBytes&)>& spoil,
                          const std::string& architecture = "llama", ImportDType dtype = {}) {
    GgufBytes bytes = tiny_gguf(architecture);
    spoil(bytes);
    const fs::path file = folder.write("a.gguf", bytes.bytes());
    suite.expect_bad_input(name, fragment, [&] { import_gguf(file, folder / "out", {dtype}); });
  };

  // Keys that must be there.
  for (const char* key :
       {"general.architecture", "llama.block_count", "llama.context_length",
        "llama.embedding_length", "llama.feed_forward_length", "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon", "tokenizer.ggml.model", "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"}) {
    expect(fmt::format("no {}", key), key, [&](GgufBytes& b) { b.remove(key); });
    expect(fmt::format("{} of another type", key), key, [&](GgufBytes& b) { b.flag(key, true); });
  }
  // Sizes.
  for (const char* key : {"llama.block_count", "llama.context_length", "llama.embedding_length",
                          "llama.feed_forward_length", "llama.attention.head_count",
                          "llama.attention.head_count_kv"}) {
    expect(fmt::format("{} 0", key), key, [&](GgufBytes& b) { b.u32(key, 0); });
    expect(fmt::format("{} -1", key), key,
           [&](GgufBytes& b) { b.set(key, GgufType::kI32, raw<std::int32_t>(-1)); });
    expect(fmt::format("{} 2^31", key), key, [&](GgufBytes& b) { b.u32(key, 0x80000000u); });
    expect(fmt::format("{} 2^64 - 1", key), key,
           [&](GgufBytes& b) { b.set(key, GgufType::kU64, raw(~std::uint64_t{0})); });
    expect(fmt::format("{} an array", key), key, [&](GgufBytes& b) { b.i32s(key, {4, 4}); });
  }
  expect("2^31 - 1 layers", "blk.1.attn_norm.weight",
         [](GgufBytes& b) { b.u32("llama.block_count", 0x7FFFFFFF); });
  expect("hidden of another size", "shape",
         [](GgufBytes& b) { b.u32("llama.embedding_length", 128); });
  expect("2^31 - 2 heads of 2^31 - 2", "shape", [](GgufBytes& b) {
    b.u32("llama.attention.head_count", 0x7FFFFFFE);
    b.u32("llama.attention.head_count_kv", 0x7FFFFFFE);
    b.u32("llama.attention.key_length", 0x7FFFFFFE);
  });
  expect("3 key heads of 4", "a divisor",
         [](GgufBytes& b) { b.u32("llama.attention.head_count_kv", 3); });
  expect("7 heads of 64", "a divisor of", [](GgufBytes& b) {
    b.u32("llama.attention.head_count", 7);
    b.u32("llama.attention.head_count_kv", 7);
  });
  expect("an odd head size", "an even head size",
         [](GgufBytes& b) { b.u32("llama.attention.key_length", 15); });
  expect("another value size", "llama.attention.value_length",
         [](GgufBytes& b) { b.u32("llama.attention.value_length", 32); });
  expect("a part of the head rotated", "llama.rope.dimension_count",
         [](GgufBytes& b) { b.u32("llama.rope.dimension_count", 8); });
  expect("experts", "llama.expert_count", [](GgufBytes& b) { b.u32("llama.expert_count", 8); });
  expect("a sliding window", "llama.attention.sliding_window",
         [](GgufBytes& b) { b.u32("llama.attention.sliding_window", 4096); });
  expect("another vocabulary", "llama.vocab_size",
         [](GgufBytes& b) { b.u32("llama.vocab_size", 9); });
  expect("a key that could mean anything", "llama.logit_scale",
         [](GgufBytes& b) { b.f32("llama.logit_scale", 2); });
  // Numbers.
  for (const char* key : {"llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base"}) {
    for (const float value : {0.0f, -1.0f, std::nanf(""), std::numeric_limits<float>::infinity()}) {
      expect(fmt::format("{} {}", key, value), key, [&](GgufBytes& b) { b.f32(key, value); });
    }
  }
  // Rotary scaling.
  expect("an unknown scaling", "\"longrope\"",
         [](GgufBytes& b) { b.text("llama.rope.scaling.type", "longrope"); });
  expect("linear without a factor", "llama.rope.scaling.factor",
         [](GgufBytes& b) { b.text("llama.rope.scaling.type", "linear"); });
  expect("linear by 0", "llama.rope.scaling.factor", [](GgufBytes& b) {
    b.text("llama.rope.scaling.type", "linear");
    b.f32("llama.rope.scaling.factor", 0);
  });
  expect("yarn without its length", "original_context_length", [](GgufBytes& b) {
    b.text("llama.rope.scaling.type", "yarn");
    b.f32("llama.rope.scaling.factor", 4);
  });
  expect("divisors of another model", "Llama 3's divisors",
         [](GgufBytes& b) { b.tensor("rope_freqs.weight", {8}); });
  expect("divisors of NaN", "Llama 3's divisors",
         [](GgufBytes& b) { b.tensor("rope_freqs.weight", {8}).data = std::string(32, '\xff'); });
  expect("divisors of another size", "rope_freqs.weight",
         [](GgufBytes& b) { b.tensor("rope_freqs.weight", {32}); });
  expect("divisors beside a scaling", "rope.scaling.type", [](GgufBytes& b) {
    b.tensor("rope_freqs.weight", {8});
    b.text("llama.rope.scaling.type", "linear");
  });

  // Architectures.
  for (const char* name : {"mamba", "LLAMA", "llama4", "qwen2moe", "deepseek2", "", "llama\n"}) {
    expect(fmt::format("architecture {}", name), "general.architecture",
           [&](GgufBytes& b) { b.text("general.architecture", name); });
  }
  expect("architecture in no UTF-8", "general.architecture",
         [](GgufBytes& b) { b.text("general.architecture", "\xff"); });
  expect("one of 3 parts", "split.count",
         [](GgufBytes& b) { b.set("split.count", GgufType::kU16, raw<std::uint16_t>(3)); });

  // Tensors.
  for (const GgufBytes::Tensor& tensor : tiny_gguf().tensors) {
    expect(fmt::format("no {}", tensor.name), tensor.name,
           [&](GgufBytes& b) { b.remove_tensor(tensor.name); });
    if (tensor.name == "token_embd.weight") continue;  // it says how many rows there are
    expect(fmt::format("{} longer", tensor.name), tensor.name, [&](GgufBytes& b) {
      GgufBytes::Tensor& t = b.tensor_named(tensor.name);
      const std::size_t row_bytes = t.data.size() / t.shape.back();
      if (t.shape.size() == 1) {
        t.shape = {t.shape[0], 2};
        t.data += t.data;
      } else {
        t.shape.back() += 1;
        t.data += std::string(row_bytes, 'x');
      }
    });
  }
  expect("a tensor of nobody", "\"blk.1.attn_q.weight\"", [](GgufBytes& b) {
    b.tensor("blk.1.attn_q.weight", {64, 64});
  });
  expect("experts' tensors", "ffn_gate_inp", [](GgufBytes& b) {
    b.tensor("blk.0.ffn_gate_inp.weight", {64, 8});
  });
  expect("one bias of four", "attn_k.bias",
         [](GgufBytes& b) { b.tensor("blk.0.attn_q.bias", {64}); });
  expect("a bias that q lacks", "attn_v.bias",
         [](GgufBytes& b) { b.tensor("blk.0.attn_v.bias", {32}); });
  expect("a quantised bias", "Q8_0", [](GgufBytes& b) {
    b.tensor("blk.0.attn_q.bias", {64}, GgmlType::kQ8_0);
    b.tensor("blk.0.attn_k.bias", {32});
  });
  expect(
      "qwen2 without biases", "attn_q.bias",
      [](GgufBytes& b) { b.remove_tensor("blk.0.attn_q.bias"); }, "qwen2");
  expect(
      "qwen3 without norms", "attn_q_norm",
      [](GgufBytes& b) { b.remove_tensor("blk.0.attn_q_norm.weight"); }, "qwen3");
  expect("llama with norms", "attn_q_norm",
         [](GgufBytes& b) { b.tensor("blk.0.attn_q_norm.weight", {16}); });
  expect(
      "beyond fp16", "--dtype bf16",
      [](GgufBytes& b) {
        std::string& data = b.tensor_named("output_norm.weight").data;
        const float large = 1e6f;
        std::memcpy(data.data() + 8, &large, sizeof large);
      },
      "llama", ImportDType::kF16);

  // The tokenizer.
  for (const char* name : {"llama", "bert", "t5", "none", ""}) {
    expect(fmt::format("tokenizer {}", name), "tokenizer.ggml.model",
           [&](GgufBytes& b) { b.text("tokenizer.ggml.model", name); });
  }
  for (const char* name : {"tekken", "smollm2", "", "LLAMA-BPE"}) {
    expect(fmt::format("pre-tokeniser {}", name), "tokenizer.ggml.pre",
           [&](GgufBytes& b) { b.text("tokenizer.ggml.pre", name); });
  }
  const auto tokens = [](std::vector<std::string> texts) {
    return [texts](GgufBytes& b) { b.texts("tokenizer.ggml.tokens", texts); };
  };
  expect("no tokens", "1 to 8 tokens", tokens({}));
  expect("more tokens than rows", "1 to 8 tokens",
         tokens({"1", "2", "3", "4", "5", "6", "7", "8", "9"}));
  expect("a token twice", "\"a\" twice", tokens({"<|end|>", "a", "b", "ab", "a", "abc", "t", "p"}));
  expect("a token in no UTF-8", "tokens[2]",
         tokens({"<|end|>", "a", "\xff", "ab", "c", "abc", "t", "p"}));
  const auto kinds = [](std::vector<std::int32_t> values) {
    return [values](GgufBytes& b) { b.i32s("tokenizer.ggml.token_type", values); };
  };
  expect("fewer kinds", "8 kinds", kinds({3, 1, 1, 1, 1, 1, 4}));
  expect("kind 0", "token_type[6]", kinds({3, 1, 1, 1, 1, 1, 0, 5}));
  expect("kind 6", "token_type[0]", kinds({6, 1, 1, 1, 1, 1, 4, 5}));
  expect("kind -1", "token_type[7]", kinds({3, 1, 1, 1, 1, 1, 4, -1}));
  for (const char* merge :
       {"", " ", "ab", "a  b", "a b c", " ab", "ab ", "a z", "b a", "a [PAD7]"}) {
    expect(fmt::format("merge '{}'", merge), "merges[1]", [&](GgufBytes& b) {
      b.texts("tokenizer.ggml.merges", {"a b", merge});
    });
  }
  for (const char* key : {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                          "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.padding_token_id"}) {
    expect(fmt::format("{} 8", key), key, [&](GgufBytes& b) { b.u32(key, 8); });
    expect(fmt::format("{} 2^32 - 1", key), key, [&](GgufBytes& b) { b.u32(key, 0xFFFFFFFFu); });
    expect(fmt::format("{} a string", key), key, [&](GgufBytes& b) { b.text(key, "0"); });
  }
  expect("eot 8", "eot_token_id", [](GgufBytes& b) { b.u32("tokenizer.ggml.eot_token_id", 8); });
  expect("adds a bos that is not there", "bos_token_id", [](GgufBytes& b) {
    b.flag("tokenizer.ggml.add_bos_token", true);
    b.remove("tokenizer.ggml.bos_token_id");
  });
  expect("add_bos a number", "add_bos_token",
         [](GgufBytes& b) { b.u32("tokenizer.ggml.add_bos_token", 1); });
  expect("template an array", "chat_template",
         [](GgufBytes& b) { b.texts("tokenizer.chat_template", {"x"}); });
  expect("template in no UTF-8", "chat_template",
         [](GgufBytes& b) { b.text("tokenizer.chat_template", "\xc3"); });

  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1) << "something was left";
}

TEST(ImportGguf, RefusesAFullFolder) {
  const TempFolder folder;
  const fs::path file = folder.write("a.gguf", tiny_gguf().bytes());
  folder.write("out/precious", "x");
  try {
    import_gguf(file, folder / "out", {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kUsage);
  }
  EXPECT_EQ(bytes_of(folder / "out/precious"), "x");
}

}  // namespace
}  // namespace loza
