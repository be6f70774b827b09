#include "loza/model/new_model.h"

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/base/json.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/checkpoint/tensor.h"
#include "loza/model/config_reader.h"
#include "loza/model/families/families.h"
#include "loza/tokenizer/tokenizer.h"

namespace loza {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTokenizerFile = "tokenizer.json";
constexpr const char* kTokenizerConfig = "tokenizer_config.json";
constexpr std::uint64_t kMaxConfigFileBytes = std::uint64_t{2} << 20;

// A model's files without its weights, and what its weights are.
struct NewModelFiles {
  Json config;
  ModelConfig model;
  at::ScalarType dtype = at::kFloat;
  double deviation = 0;
  std::int64_t padding_id = -1;              // none
  std::map<std::string, std::string> files;  // name -> bytes, config.json included
};

// Draws as transformers' _init_weights does for every family of ours.
class InitialWeights {
 public:
  InitialWeights(const NewModelFiles& model, std::uint64_t seed)
      : model_(model),
        embedding_(families::family_of(model.model).names.embedding),
        generator_(at::make_generator<at::CPUGeneratorImpl>(seed)) {}

  at::Tensor draw(const ParameterShape& weight) {
    if (families::is_norm(weight.name)) return at::ones(weight.shape);
    if (weight.name.ends_with("bias")) return at::zeros(weight.shape);
    at::Tensor values =
        at::empty(weight.shape, at::kFloat).normal_(0, model_.deviation, generator_);
    if (weight.name == embedding_ && model_.padding_id >= 0) values[model_.padding_id].zero_();
    return values;
  }

 private:
  const NewModelFiles& model_;
  std::string embedding_;
  at::Generator generator_;
};

at::ScalarType dtype_of(const ConfigReader& config) {
  const std::string key = config.has("dtype") ? "dtype" : "torch_dtype";
  const std::string name = config.choice_or(key, "float32", {"float32", "bfloat16", "float16"});
  if (name == "bfloat16") return at::kBFloat16;
  return name == "float16" ? at::kHalf : at::kFloat;
}

// The tokenizer's files by name, which a model folder takes over as they are.
std::map<std::string, std::string> tokenizer_files(const fs::path& path) {
  std::map<std::string, std::string> files;
  if (fs::is_directory(path)) {
    for (const char* name :
         {kTokenizerFile, kTokenizerConfig, "special_tokens_map.json", "chat_template.jinja"}) {
      if (fs::exists(path / name)) files[name] = read_file(path / name);
    }
  } else {
    files[kTokenizerFile] = read_file(path);
  }
  if (!files.contains(kTokenizerFile)) {
    throw_bad_input(path.string(), fmt::format("a folder with a {}", kTokenizerFile), "none there");
  }
  // Else transformers would take the tokenizer that is usual for the family.
  const Json plain = {{"tokenizer_class", "PreTrainedTokenizerFast"}};
  files.try_emplace(kTokenizerConfig, plain.dump(2) + "\n");
  return files;
}

// The tokenizer knows its tokens; a config that was written for another one may not. Where neither
// names one it is null: a missing key would mean the family's usual id.
void name_token(Json& config, const char* key, std::int64_t id) {
  if (id < 0) {
    if (!config.contains(key)) config[key] = nullptr;
    return;
  }
  const Json ids = config.value(key, Json());
  const bool is_named = ids.is_array() && std::find(ids.begin(), ids.end(), id) != ids.end();
  if (!is_named) config[key] = id;
}

Tokenizer read_tokenizer(const fs::path& path) {
  if (fs::is_directory(path)) return Tokenizer::from_folder(path);
  return Tokenizer::from_json(read_file(path), path.string());
}

NewModelFiles read_files(const NewModel& model) {
  const std::string place = model.config.string();
  NewModelFiles read;
  read.config = parse_json(read_file(model.config, kMaxConfigFileBytes), place);
  read.model = read_model_config(read.config, place);
  const ConfigReader config(read.config, place);
  read.dtype = dtype_of(config);
  constexpr double kUsualDeviation = 0.02;
  read.deviation = config.number_or("initializer_range", kUsualDeviation, 0, 1e3);
  if (read.deviation == 0) read.deviation = kUsualDeviation;  // transformers reads 0 so
  read.padding_id = config.integer_or("pad_token_id", -1, 0, read.model.vocab_size - 1);

  read.files = tokenizer_files(model.tokenizer);
  const Tokenizer tokenizer = read_tokenizer(model.tokenizer);
  if (tokenizer.vocab_size() > read.model.vocab_size) {
    config.refuse(
        "vocab_size",
        fmt::format("at least {}, the ids of {}", tokenizer.vocab_size(), model.tokenizer.string()),
        "raise vocab_size, or train a smaller tokenizer");
  }
  name_token(read.config, "bos_token_id", tokenizer.bos_id());
  name_token(read.config, "eos_token_id", tokenizer.eos_id());
  read.files["config.json"] = read.config.dump(2) + "\n";
  return read;
}

bool has_bytes(const fs::path& file, const std::string& bytes) {
  return fs::is_regular_file(file) && fs::file_size(file) == bytes.size() &&
         read_file(file) == bytes;
}

bool holds(const fs::path& folder, const NewModelFiles& model, std::uint64_t seed) {
  for (const auto& [name, bytes] : model.files) {
    if (!has_bytes(folder / name, bytes)) return false;
  }
  const Checkpoint checkpoint(folder);
  InitialWeights weights(model, seed);
  const std::vector<ParameterShape> shapes = parameter_shapes(model.model);
  return std::all_of(shapes.begin(), shapes.end(), [&](const ParameterShape& shape) {
    const at::Tensor drawn = weights.draw(shape).to(model.dtype);
    if (!checkpoint.has(shape.name)) return false;
    const TensorEntry& entry = checkpoint.tensor(shape.name);
    return entry.shape == shape.shape && entry.bytes.size() == drawn.nbytes() &&
           std::memcmp(entry.bytes.data(), drawn.const_data_ptr(), drawn.nbytes()) == 0;
  });
}

}  // namespace

void write_new_weights(const fs::path& folder, const ModelConfig& config, at::ScalarType dtype,
                       const DrawWeight& draw) {
  std::vector<at::Tensor> weights;
  std::vector<TensorEntry> entries;
  for (const ParameterShape& shape : parameter_shapes(config)) {
    weights.push_back(draw(shape).to(dtype));
    entries.push_back(entry_of(shape.name, weights.back()));
  }
  write_weights(folder, entries);
}

void ensure_new_model(const NewModel& model, const fs::path& folder) {
  const at::NoGradGuard no_grad;
  const NewModelFiles files = read_files(model);
  if (fs::exists(folder) && !fs::is_empty(folder)) {
    if (holds(folder, files, model.seed)) return;
    throw_usage(folder.string(),
                fmt::format("the model of {} with the seed {}, or nothing", model.config.string(),
                            model.seed),
                "another model", "remove it, or take another folder");
  }
  StagedFolder staged(folder);
  InitialWeights weights(files, model.seed);
  write_new_weights(staged.path(), files.model, files.dtype,
                    [&](const ParameterShape& shape) { return weights.draw(shape); });
  for (const auto& [name, bytes] : files.files) write_file_atomic(staged.path() / name, bytes);
  staged.commit();
}

}  // namespace loza
