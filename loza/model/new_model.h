#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>

#include "loza/model/config.h"
#include "loza/model/transformer.h"

namespace loza {

// What a weight begins with: its shape, fp32, CPU, contiguous.
using DrawWeight = std::function<at::Tensor(const ParameterShape&)>;

// Writes every weight of such a model into a folder, drawn in the order of parameter_shapes, in
// `dtype`. REQUIRES: the folder is there.
void write_new_weights(const std::filesystem::path& folder, const ModelConfig& config,
                       at::ScalarType dtype, const DrawWeight& draw);

// A model to be trained from scratch.
struct NewModel {
  std::filesystem::path config;     // a Hugging Face config.json of any family that loza knows
  std::filesystem::path tokenizer;  // a tokenizer.json, or a folder that has one
  std::uint64_t seed = 0;
};

// Makes sure that `folder` is the checkpoint of that model: writes it where nothing is, and leaves
// it alone where it is that checkpoint already, byte for byte. transformers loads it, too.
//   weights    as transformers begins them: normal with the config's initializer_range (0.02) as
//              deviation, the padding token's embedding 0, norms 1, biases 0; in the config's dtype
//              (fp32); a function of the config and the seed
//   config     the file's, with bos and eos as the tokenizer names them
//   tokenizer  of a folder its tokenizer files; of a file that one alone
// Throws Error(kBadInput) when the config, its family or the tokenizer can't be read, or the
// tokenizer has ids past vocab_size, Error(kUsage) when something else is in `folder`.
void ensure_new_model(const NewModel& model, const std::filesystem::path& folder);

}  // namespace loza
