#include "loza/base/check.h"
#include "loza/model/families/families.h"

namespace loza::families {

const std::vector<Family>& registry() {
  static const std::vector<Family> rows = {
      {"llama", read_llama},
      {"mistral", read_mistral},
      {"qwen2", read_qwen2},
      {"qwen3", read_qwen3},
      {"deepseek_v2", read_deepseek_v2},
      {"deepseek_v3", read_deepseek_v3},
      {"glm4_moe_lite", read_glm4_moe_lite},
      {"longcat_flash", read_longcat_flash, longcat_flash_names()},
  };
  return rows;
}

const Family& family_of(const ModelConfig& config) {
  for (const Family& family : registry()) {
    if (family.model_type == config.family) return family;
  }
  LOZA_CHECK(false, config.family);
  return registry().front();
}

bool is_norm(const std::string& name) { return name.find("norm.") != std::string::npos; }

}  // namespace loza::families
