#include "loza/base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace loza {
namespace {

using Clock = std::chrono::steady_clock;

std::string duration(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole < 100) return fmt::format("{} s", whole);
  if (whole < 6000) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

}  // namespace

Progress::Progress(std::string title, std::int64_t total)
    : title_(std::move(title)),
      total_(std::max<std::int64_t>(total, 1)),
      terminal_(::isatty(STDERR_FILENO) != 0),
      start_(Clock::now()),
      last_drawn_(start_) {}

Progress::~Progress() {
  if (terminal_ || drawn_ != done_) draw(/*last=*/true);
}

void Progress::advance(std::int64_t steps, const std::string& note) {
  done_ += steps;
  if (!note.empty()) note_ = note;
  const std::chrono::duration<double> since_drawn = Clock::now() - last_drawn_;
  if (since_drawn.count() >= (terminal_ ? 0.1 : 10.0)) draw(/*last=*/false);
}

double Progress::seconds() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

void Progress::draw(bool last) {
  constexpr int kWidth = 20;
  last_drawn_ = Clock::now();
  drawn_ = done_;
  const double share = std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_));
  const int filled = static_cast<int>(share * kWidth);
  std::string line =
      fmt::format("{}  [{}{}]  {}/{}  {}", title_, std::string(filled, '#'),
                  std::string(kWidth - filled, '-'), done_, total_, duration(seconds()));
  if (done_ > 0 && done_ < total_) {
    line += fmt::format(", {} left", duration(seconds() * (1 - share) / share));
  }
  if (!note_.empty()) line += "  " + note_;
  if (terminal_) {
    fmt::print(stderr, "\r{}\x1b[K{}", line, last ? "\n" : "");
  } else {
    fmt::print(stderr, "{}\n", line);
  }
  std::fflush(stderr);
}

}  // namespace loza
