#include "cli/peak_memory.h"

#include <algorithm>
#include <fstream>
#include <string>

#include "loza/model/device_peak.h"

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

double device_mebibytes(at::Device device) {
  return static_cast<double>(peak_device_bytes(device)) / (1 << 20);
}

// Where it is not allowed the peak goes on, and longer documents are told what shorter ones held.
void restart_peak() { std::ofstream("/proc/self/clear_refs") << 5; }

}  // namespace

void PeakMemory::note(std::int64_t length) {
  const double host = peak_mebibytes();
  whole_ = std::max(whole_, host);
  double& peak = by_length_[length];
  peak = std::max(peak, device_.is_cpu() ? host : device_mebibytes(device_));
  restart_peak();
  restart_device_peak(device_);
}

double PeakMemory::whole() const { return std::max(whole_, peak_mebibytes()); }

double PeakMemory::on_gpu() const {
  double peak = device_mebibytes(device_);
  if (device_.is_cpu()) return peak;
  for (const auto& [length, of_length] : by_length_) peak = std::max(peak, of_length);
  return peak;
}

}  // namespace loza::cli
