#pragma once

#include <string>

namespace loza {

// What the system calls this machine's processor, or "unknown": for reports.
std::string processor_name();

}  // namespace loza
