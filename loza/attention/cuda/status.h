#pragma once

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

}  // namespace loza::attention::cuda
