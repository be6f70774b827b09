#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace loza {

enum class ImportDType { kF32, kBF16, kF16 };

struct GgufImport {
  ImportDType dtype = ImportDType::kF32;
};

// What was imported, for the user.
struct GgufImported {
  std::string architecture;  // the class in config.json: "LlamaForCausalLM"
  std::int64_t num_tensors = 0;
  std::int64_t num_parameters = 0;
  std::uint64_t weight_bytes = 0;  // of model.safetensors' tensors
};

// Turns a GGUF file (v2 or v3, architecture llama, qwen2 or qwen3) into a Hugging Face folder
// that transformers loads: config.json, model.safetensors, tokenizer.json,
// tokenizer_config.json (with the chat template), generation_config.json. Complete or
// invisible; shows a progress bar. Weights pass in pieces: memory does not grow with the
// model. Throws Error(kBadInput) that names what is not supported or not valid, Error(kUsage)
// when `target` has files already.
GgufImported import_gguf(const std::filesystem::path& file, const std::filesystem::path& target,
                         const GgufImport& options);

}  // namespace loza
