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

Transformer load_model(const Checkpoint& checkpoint, const ModelOptions& options,
                       const Group& group) {
  const bool is_shared = group.size() > 1 && options.device != "cpu";
  if (is_shared && options.device != "cuda") {
    throw_usage("--device", "cuda, of which each process takes its own", options.device);
  }
  const at::Device device =
      parse_device(is_shared ? fmt::format("cuda:{}", group.local_rank()) : options.device);
  return Transformer::load(checkpoint, parse_dtype(options.dtype, device), device);
}

}  // namespace loza::cli
