#pragma once

#include <filesystem>
#include <string>

namespace loza {

enum class ImportDType { kF32, kBF16, kF16 };

struct GgufImport {
  ImportDType dtype = ImportDType::kF32;
};

// Turns a GGUF file (v2 or v3, architecture llama, qwen2 or qwen3) into a Hugging Face folder
// that transformers loads: config.json, model.safetensors, tokenizer.json,
// tokenizer_config.json (with the chat template), generation_config.json. Complete or
// invisible. Throws Error(kBadInput) that names what is not supported or not valid.
void import_gguf(const std::filesystem::path& file, const std::filesystem::path& target,
                 const GgufImport& options);

}  // namespace loza
