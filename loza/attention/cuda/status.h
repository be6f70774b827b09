#pragma once

#include <cstdint>
#include <cstdio>

namespace loza::attention::cuda {

enum class StatusCode {
  kOk,
  kBadArgument,  // the call breaks a REQUIRES
  kUnsupported,  // a correct call that these kernels do not take
  kWorkspaceTooSmall,
  kCudaError,
};

// What became of a call. A value: no memory is allocated, nothing is thrown, so calls stay
// legal while a CUDA graph is being captured.
struct [[nodiscard]] Status {
  StatusCode code = StatusCode::kOk;
  char message[232] = "";  // place, expected, got, remedy; empty if ok

  bool ok() const { return code == StatusCode::kOk; }
};

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

}  // namespace loza::attention::cuda
