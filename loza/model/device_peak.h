#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace loza {

// The most bytes of tensors that a GPU has held since the start, or the last restart; 0 for the
// CPU, and where this libtorch (before 2.9) does not say.
std::int64_t peak_device_bytes(at::Device device);
void restart_device_peak(at::Device device);

}  // namespace loza
