#include "loza/calibrate/convert.h"

#include <fmt/format.h>

#include "loza/base/error.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/model/config.h"

namespace loza {

void convert_model(const std::filesystem::path& source, const std::filesystem::path& target,
                   const AttentionPlan& plan) {
  const Checkpoint checkpoint(source);
  const std::string place = (source / "config.json").string();
  const std::int64_t num_modules = read_model_config(checkpoint.config(), place).num_modules();
  if (num_modules != plan.num_modules()) {
    throw_bad_input(place, fmt::format("{} attention modules, as the plan has", plan.num_modules()),
                    fmt::format("{}", num_modules), "use gates made for this model");
  }
  copy_with_config(source, target, with_plan(checkpoint.config(), plan));
}

}  // namespace loza
