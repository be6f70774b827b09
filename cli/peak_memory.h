#pragma once

#include <cstdint>
#include <map>

namespace loza::cli {

// The most memory that this process has held, in MiB, as a whole and by the lengths that it worked
// on. (getrusage would also count what the process that started this one had held.)
class PeakMemory {
 public:
  // What was held since the last note, or the start, was for documents of that length.
  void note(std::int64_t length);
  const std::map<std::int64_t, double>& by_length() const { return by_length_; }
  double whole() const;

 private:
  std::map<std::int64_t, double> by_length_;
};

}  // namespace loza::cli
