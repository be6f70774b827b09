#include "loza/calibrate/convert.h"

#include <fmt/format.h>

#include "loza/base/error.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/model/config.h"

namespace loza {

void convert_model(const std::filesystem::path& source, const std::filesystem::path& target,
                   const Conversion& conversion) {
  const Checkpoint checkpoint(source);
  const std::string place = (source / "config.json").string();
  Json config = checkpoint.config();
  const std::int64_t num_modules = read_model_config(config, place).num_modules();
  if (const auto& plan = conversion.plan) {
    if (num_modules != plan->num_modules()) {
      throw_bad_input(place,
                      fmt::format("{} attention modules, as the plan has", plan->num_modules()),
                      fmt::format("{}", num_modules), "use gates made for this model");
    }
    config = with_plan(config, *plan);
  }
  if (!conversion.rope.is_none()) config = with_rope(config, conversion.rope, place);
  copy_with_config(source, target, config);
}

}  // namespace loza
