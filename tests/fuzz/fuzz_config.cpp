// A config.json: refused with Error(kBadInput), or a model's sizes that agree with each other.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "loza/base/error.h"
#include "loza/base/json.h"
#include "loza/model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const loza::Json json = loza::parse_json(text, "config.json");
    if (loza::parse_json(json.dump(), "again") != json) std::abort();
    const loza::ModelConfig config = loza::read_model_config(json, "config.json");
    if (config.num_layers < 1 || config.hidden_size < 1 || config.num_heads < 1 ||
        config.qk_size() < 1 || config.kv_row_size() < 1) {
      std::abort();
    }
  } catch (const loza::Error& e) {
    if (e.code() != loza::ExitCode::kBadInput) std::abort();
  }
  return 0;
}
