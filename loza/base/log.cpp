#include "loza/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <memory>

namespace loza {

void init_logging(spdlog::level::level_enum level) {
  auto logger = std::make_shared<spdlog::logger>(
      "loza", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_pattern("%^%l%$ %v");
  logger->set_level(level);
  spdlog::set_default_logger(logger);
}

}  // namespace loza
