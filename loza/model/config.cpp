#include "loza/model/config.h"

#include "loza/model/config_reader.h"
#include "loza/model/families/families.h"

namespace loza {

ModelConfig read_model_config(const Json& config, const std::string& place) {
  const ConfigReader reader(config, place);
  const std::string model_type = reader.choice("model_type", model_families());
  for (const families::Family& family : families::registry()) {
    if (family.model_type == model_type) return family.read(reader);
  }
  reader.refuse("model_type", "a registered family");
}

std::vector<std::string> model_families() {
  std::vector<std::string> names;
  for (const families::Family& family : families::registry()) names.push_back(family.model_type);
  return names;
}

}  // namespace loza
