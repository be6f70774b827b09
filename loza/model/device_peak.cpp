#include "loza/model/device_peak.h"

#include <torch/version.h>

#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 9
#include <ATen/DeviceAccelerator.h>
#define LOZA_HAS_DEVICE_STATS 1
#else
#define LOZA_HAS_DEVICE_STATS 0
#endif

namespace loza {

std::int64_t peak_device_bytes(at::Device device) {
#if LOZA_HAS_DEVICE_STATS
  if (!device.is_cpu()) {
    const auto stats = at::accelerator::getDeviceStats(device.has_index() ? device.index() : 0);
    return stats.allocated_bytes[0].peak;  // of all pools together
  }
#endif
  return 0;
}

void restart_device_peak(at::Device device) {
#if LOZA_HAS_DEVICE_STATS
  if (!device.is_cpu()) {
    at::accelerator::resetPeakStats(device.has_index() ? device.index() : 0);
  }
#endif
}

}  // namespace loza
