#include "cli/model_options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "loza/base/error.h"

namespace loza::cli {

void add_model_options(CLI::App& command, ModelOptions& options) {
  command.add_option("--dtype", options.dtype, "fp32, bf16, or auto: what the device does fast")
      ->capture_default_str();
  command.add_option("--device", options.device, "cpu, cuda or cuda:N")->capture_default_str();
}

void add_weights_option(CLI::App& command, ModelOptions& options) {
  command
      .add_option("--weights", options.weights,
                  "Of linear layers: fp32, bf16, int8 (CPU: half the bytes of bf16, groups of 32 "
                  "numbers with one scale), or auto: as --dtype says")
      ->capture_default_str();
}

namespace {

// fp32 and bf16 weights are multiplied in their own dtype.
std::string dtype_with(const ModelOptions& options) {
  if (options.weights != "fp32" && options.weights != "bf16") return options.dtype;
  if (options.dtype != "auto" && options.dtype != options.weights) {
    throw_usage("--weights",
                fmt::format("auto, int8 or {} with --dtype {}", options.dtype, options.dtype),
                options.weights);
  }
  return options.weights;
}

WeightFormat parse_format(const std::string& text, at::Device device) {
  if (text == "auto" || text == "fp32" || text == "bf16") return WeightFormat::kDtype;
  if (text != "int8") throw_usage("--weights", "auto, fp32, bf16 or int8", text);
  if (!device.is_cpu()) throw_usage("--weights", "auto or bf16 on a GPU", text);
  return WeightFormat::kInt8;
}

}  // namespace

Transformer load_model(const Checkpoint& checkpoint, const ModelOptions& options,
                       const Group& group) {
  const bool is_shared = group.size() > 1 && options.device != "cpu";
  if (is_shared && options.device != "cuda") {
    throw_usage("--device", "cuda, of which each process takes its own", options.device);
  }
  const at::Device device =
      parse_device(is_shared ? fmt::format("cuda:{}", group.local_rank()) : options.device);
  return Transformer::load(checkpoint, parse_dtype(dtype_with(options), device), device,
                           parse_format(options.weights, device));
}

}  // namespace loza::cli
