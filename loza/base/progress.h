#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace loza {

// A progress bar on stderr with the time left; one line that redraws itself on a terminal,
// a line every ten seconds elsewhere. Not thread-safe: one owner advances it.
//   calibrating alpha, seed 0  [#########-----------]  8/16  12 s, 12 s left  loss 0.31
class Progress {
 public:
  Progress(std::string title, std::int64_t total);
  ~Progress();  // finishes the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance(std::int64_t steps = 1, const std::string& note = "");
  double seconds() const;

 private:
  void draw(bool last);

  std::string title_, note_;
  std::int64_t total_, done_ = 0, drawn_ = -1;
  bool terminal_;
  std::chrono::steady_clock::time_point start_, last_drawn_;
};

}  // namespace loza
