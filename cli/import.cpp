#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "loza/base/json.h"
#include "loza/checkpoint/gguf.h"

namespace loza::cli {
namespace {

struct ImportOptions {
  std::string file, target;
  ImportDType dtype = ImportDType::kF32;
  bool json = false;
};

const std::map<std::string, ImportDType> kDTypes = {
    {"fp32", ImportDType::kF32}, {"bf16", ImportDType::kBF16}, {"fp16", ImportDType::kF16}};

void import(const ImportOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const GgufImported imported = import_gguf(options.file, options.target, {options.dtype});
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (options.json) {
    const Json summary = {{"folder", options.target},
                          {"architecture", imported.architecture},
                          {"tensors", imported.num_tensors},
                          {"parameters", imported.num_parameters},
                          {"weight_bytes", imported.weight_bytes},
                          {"seconds", seconds}};
    fmt::print("{}\n", summary.dump());
    return;
  }
  fmt::print("{}: {}, {:.1f} M parameters in {} tensors, {:.0f} MB, {:.1f} s\n", options.target,
             imported.architecture, static_cast<double>(imported.num_parameters) / 1e6,
             imported.num_tensors, static_cast<double>(imported.weight_bytes) / 1e6, seconds);
}

}  // namespace

void add_import(CLI::App& app) {
  auto options = std::make_shared<ImportOptions>();
  CLI::App* command = app.add_subcommand(
      "import",
      "Turn a GGUF file into a Hugging Face model folder, which loza and transformers load. "
      "Architectures: llama, qwen2, qwen3. Tensor types: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, "
      "Q5_1, Q4_K, Q5_K, Q6_K");
  command->add_option("file", options->file, "GGUF file")->required();
  command->add_option("out", options->target, "Folder to write, new or empty")->required();
  command->add_option("--dtype", options->dtype, "Type of the weights written (default fp32)")
      ->transform(CLI::CheckedTransformer(kDTypes, CLI::ignore_case))
      ->option_text("{fp32,bf16,fp16}");
  command->add_flag("--json", options->json, "Print the summary as JSON");
  command->footer("Example: loza import SmolLM2-135M-Instruct.Q4_1.gguf smollm2 --dtype bf16");
  command->callback([options] { import(*options); });
}

}  // namespace loza::cli
