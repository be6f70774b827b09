#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "loza/base/file.h"
#include "loza/base/json.h"
#include "loza/base/random.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/checkpoint/tensor.h"
#include "loza/tasks/tokenized.h"

// A small Llama whose answers need one known module to look far: it was not trained but built.
//
// Tokens: fact (key, value), ask (key), value, filler. A document states facts, goes on with
// filler, and asks; the answer to an ask is the value of the fact with its key. Hidden units:
//   [0, 8) key of a fact   [8, 16) key of an ask   [16, 24) value of a fact   [24, 32) answer
//   [32, 48) noise of fillers
// The carrier module's head 0 has queries from an ask's key and keys from a fact's, laid in
// the rotary pairs that hardly turn; its values go to the answer's units, which the output head
// reads. Everything else in the model, the carrier's other head included, is small noise.
namespace loza::testing {

struct FarModel {
  static constexpr std::int64_t kNumKeys = 8, kNumValues = 8, kNumFillers = 32;
  static constexpr std::int64_t kFacts = 0, kAsks = kNumKeys * kNumValues,
                                kValues = kAsks + kNumKeys, kFillers = kValues + kNumValues,
                                kVocab = kFillers + kNumFillers;
  static constexpr std::int64_t kHidden = 48, kHeads = 2, kHeadSize = 32, kIntermediate = 32;

  std::int64_t num_layers = 6;
  std::int64_t carrier = 3;
  std::uint64_t seed = 0;

  // Writes config.json and model.safetensors.
  void write(const std::filesystem::path& folder) const {
    std::filesystem::create_directories(folder);
    const Json config = {{"model_type", "llama"},
                         {"architectures", {"LlamaForCausalLM"}},
                         {"vocab_size", kVocab},
                         {"hidden_size", kHidden},
                         {"num_hidden_layers", num_layers},
                         {"intermediate_size", kIntermediate},
                         {"num_attention_heads", kHeads},
                         {"num_key_value_heads", kHeads},
                         {"head_dim", kHeadSize},
                         {"max_position_embeddings", 4096},
                         {"rms_norm_eps", 1e-6},
                         {"rope_theta", 1e12},
                         {"tie_word_embeddings", false},
                         {"kept_as_it_is", {{"by", "conversion"}}}};
    write_file_atomic(folder / "config.json", config.dump(2));
    const auto tensors = weights();
    std::vector<TensorEntry> entries;
    for (const auto& [name, tensor] : tensors) entries.push_back(entry_of(name, tensor));
    write_weights(folder, entries);
  }

  // All facts in [8, 40), the asks, each with its answer, at the end. 4 answers.
  static TokenizedDocument document(std::uint64_t seed, std::int64_t index,
                                    std::int64_t length = 96) {
    Random random(Random(seed).next() ^ Random(static_cast<std::uint64_t>(index)).next());
    TokenizedDocument doc;
    for (std::int64_t t = 0; t < length; ++t) {
      doc.ids.push_back(kFillers + random.below(kNumFillers));
    }
    doc.is_answer.assign(doc.ids.size(), 0);
    std::vector<std::int64_t> places(32), values;
    for (std::size_t i = 0; i < places.size(); ++i) places[i] = 8 + static_cast<std::int64_t>(i);
    random.shuffle(places);
    for (std::int64_t key = 0; key < kNumKeys; ++key) {
      values.push_back(random.below(kNumValues));
      doc.ids[static_cast<std::size_t>(places[static_cast<std::size_t>(key)])] =
          kFacts + key * kNumValues + values.back();
    }
    for (std::int64_t i = 0; i < 4; ++i) {
      const std::int64_t key = random.below(kNumKeys);
      const auto at = static_cast<std::size_t>(length - 8 + 2 * i);
      doc.ids[at] = kAsks + key;
      doc.ids[at + 1] = kValues + values[static_cast<std::size_t>(key)];
      doc.is_answer[at + 1] = 1;
    }
    doc.is_scored = doc.is_answer;
    return doc;
  }

 private:
  static constexpr std::int64_t kAskUnits = 8, kValueUnits = 16, kAnswerUnits = 24,
                                kNoiseUnits = 32;

  std::vector<std::pair<std::string, at::Tensor>> weights() const {
    at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
    const auto noise = [&](at::IntArrayRef shape, double size) {
      return at::randn(shape, generator) * size;
    };
    std::vector<std::pair<std::string, at::Tensor>> tensors = {
        {"model.embed_tokens.weight", embedding(generator)},
        {"model.norm.weight", at::ones({kHidden})},
        {"lm_head.weight", head()}};
    for (std::int64_t layer = 0; layer < num_layers; ++layer) {
      const std::string name = fmt::format("model.layers.{}.", layer);
      at::Tensor q = noise({kHeads * kHeadSize, kHidden}, 0.1);
      at::Tensor k = noise({kHeads * kHeadSize, kHidden}, 0.1);
      at::Tensor v = noise({kHeads * kHeadSize, kHidden}, 0.1);
      at::Tensor o = noise({kHidden, kHeads * kHeadSize}, 0.02);
      if (layer == carrier) build_carrier(q, k, v, o);
      tensors.insert(tensors.end(),
                     {{name + "input_layernorm.weight", at::ones({kHidden})},
                      {name + "post_attention_layernorm.weight", at::ones({kHidden})},
                      {name + "self_attn.q_proj.weight", q},
                      {name + "self_attn.k_proj.weight", k},
                      {name + "self_attn.v_proj.weight", v},
                      {name + "self_attn.o_proj.weight", o},
                      {name + "mlp.gate_proj.weight", noise({kIntermediate, kHidden}, 0.05)},
                      {name + "mlp.up_proj.weight", noise({kIntermediate, kHidden}, 0.05)},
                      {name + "mlp.down_proj.weight", noise({kHidden, kIntermediate}, 0.05)}});
    }
    return tensors;
  }

  static at::Tensor embedding(at::Generator generator) {
    at::Tensor rows = at::zeros({kVocab, kHidden});
    for (std::int64_t key = 0; key < kNumKeys; ++key) {
      for (std::int64_t value = 0; value < kNumValues; ++value) {
        rows[kFacts + key * kNumValues + value][key] = 1;
        rows[kFacts + key * kNumValues + value][kValueUnits + value] = 1;
      }
      rows[kAsks + key][kAskUnits + key] = 1;
    }
    rows.slice(0, kValues).slice(1, kNoiseUnits) =
        0.4 * at::randn({kVocab - kValues, kHidden - kNoiseUnits}, generator);
    return rows;
  }

  static at::Tensor head() {
    at::Tensor rows = at::zeros({kVocab, kHidden});
    for (std::int64_t i = 0; i < kNumValues; ++i) rows[kValues + i][kAnswerUnits + i] = 2;
    return rows;
  }

  // Head 0 alone; pairs are (i, i + size/2), those from size/4 on hardly turn.
  static void build_carrier(at::Tensor& q, at::Tensor& k, at::Tensor& v, at::Tensor& o) {
    for (at::Tensor* part : {&q, &k, &v}) part->slice(0, 0, kHeadSize).zero_();
    o.slice(1, 0, kHeadSize).zero_();
    for (std::int64_t key = 0; key < kNumKeys; ++key) {
      q[kHeadSize / 4 + key][kAskUnits + key] = 2;
      k[kHeadSize / 4 + key][key] = 2;
    }
    for (std::int64_t value = 0; value < kNumValues; ++value) {
      v[value][kValueUnits + value] = 1;
      o[kAnswerUnits + value][value] = 1;
    }
  }
};

}  // namespace loza::testing
