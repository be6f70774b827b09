#include "loza/engine/device_memory.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>

#include "loza/base/error.h"

namespace loza {

KvAllocator kv_allocator(at::Device device) {
  if (device.is_cpu()) return {};
  return [device](std::int64_t bytes) -> std::shared_ptr<std::byte> {
    try {
      // The pointer keeps the tensor.
      const at::Tensor memory = at::zeros({bytes}, at::TensorOptions(at::kByte).device(device));
      return {static_cast<std::byte*>(memory.data_ptr()), [memory](std::byte*) {}};
    } catch (const c10::OutOfMemoryError&) {
      throw Error(ExitCode::kDoesNotFit,
                  {"KV cache", fmt::format("{} bytes of memory on {}", bytes, device.str()),
                   "less is free", "take a shorter length or fewer sequences"});
    }
  };
}

}  // namespace loza
