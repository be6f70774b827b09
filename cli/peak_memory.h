#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>

namespace loza::cli {

// The most memory that this process has held, in MiB, as a whole and by the lengths that it worked
// on: of the GPU that it computes on, or of the system where that is the CPU. (getrusage would also
// count what the process that started this one had held.)
class PeakMemory {
 public:
  explicit PeakMemory(at::Device device) : device_(device) {}
  // What was held since the last note, or the start, was for documents of that length.
  void note(std::int64_t length);
  const std::map<std::int64_t, double>& by_length() const { return by_length_; }
  double whole() const;   // of the system's
  double on_gpu() const;  // 0 where there is none

 private:
  at::Device device_;
  double whole_ = 0;
  std::map<std::int64_t, double> by_length_;
};

}  // namespace loza::cli
