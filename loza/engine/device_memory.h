#pragma once

#include <ATen/core/Tensor.h>

#include "loza/engine/page_pool.h"

namespace loza {

// Memory for a cache on a model's device: libtorch's on a GPU, empty (the system's) on the CPU.
KvAllocator kv_allocator(at::Device device);

}  // namespace loza
