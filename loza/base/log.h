#pragma once

#include <spdlog/spdlog.h>

namespace loza {

// Routes every log line to stderr, one line each, without colour unless stderr is a
// terminal. Call once, from main. Results go to stdout, everything else through here.
void init_logging(spdlog::level::level_enum level = spdlog::level::info);

}  // namespace loza
