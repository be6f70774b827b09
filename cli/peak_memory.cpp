#include "cli/peak_memory.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace loza::cli {
namespace {

// Highest resident size since the start or the last restart; 0 where the system does not say.
double peak_mebibytes() {
  constexpr double kKibibytes = 1024;
  std::ifstream status("/proc/self/status");
  for (std::string name; status >> name;) {
    double value = 0;
    if (name == "VmHWM:" && status >> value) return value / kKibibytes;
  }
  return 0;
}

// Where it is not allowed the peak goes on, and longer documents are told what shorter ones held.
void restart_peak() { std::ofstream("/proc/self/clear_refs") << 5; }

}  // namespace

void PeakMemory::note(std::int64_t length) {
  double& peak = by_length_[length];
  peak = std::max(peak, peak_mebibytes());
  restart_peak();
}

double PeakMemory::whole() const {
  double peak = peak_mebibytes();
  for (const auto& [length, of_length] : by_length_) peak = std::max(peak, of_length);
  return peak;
}

}  // namespace loza::cli
