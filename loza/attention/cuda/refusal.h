#pragma once

#include <cstdint>
#include <cstdio>

#include "loza/attention/cuda/status.h"

// What the checks of the calls share.
namespace loza::attention::cuda {

inline constexpr auto kBad = StatusCode::kBadArgument;
inline constexpr auto kUnsupported = StatusCode::kUnsupported;

// The message as printf would write it.
template <typename... Values>
Status failure(StatusCode code, const char* format, Values... values) {
  Status status;
  status.code = code;
  std::snprintf(status.message, sizeof status.message, format, values...);
  return status;
}

// For %lld.
inline long long number(std::int64_t value) { return static_cast<long long>(value); }

// Whole vectors of 16 bytes can be read there.
inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

}  // namespace loza::attention::cuda
