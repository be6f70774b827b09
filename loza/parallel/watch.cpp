#include "loza/parallel/watch.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "loza/base/error.h"

namespace loza {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr const char* kEnd = "loza/end";          // the line of whoever ended the job
constexpr const char* kSuspect = "loza/suspect";  // there once a connection broke
constexpr const char* kEnded = "loza/ended";      // how many ranks have read of the end
constexpr const char* kLeft = "left";

// After a connection broke, silence of so many beats tells who is gone.
constexpr int kSuspectBeats = 5;
constexpr milliseconds kLongestFarewell = std::chrono::seconds(5);

double seconds(milliseconds time) { return std::chrono::duration<double>(time).count(); }

Error gone(int rank, milliseconds silence) {
  return Error(ExitCode::kFailed,
               {fmt::format("rank {}", rank), "a sign of life",
                fmt::format("none for {:.3g} s: it is gone, or hangs", seconds(silence)),
                "start again (train: with --resume)"});
}

// Does the step without the lock.
void unlocked(std::unique_lock<std::mutex>& lock, const std::function<void()>& step) {
  lock.unlock();
  step();
  lock.lock();
}

}  // namespace

std::string beat_key(int rank) { return fmt::format("loza/beat/{}", rank); }

milliseconds beat_interval(milliseconds timeout) {
  return std::clamp(timeout / 10, milliseconds(20), milliseconds(1000));
}

// Shared with the thread, which may outlive the watch: a store that hangs keeps it waiting. The
// thread alone speaks with the store.
struct Watch::State {
  State(c10::intrusive_ptr<c10d::Store> store_in, const Options& options_in)
      : store(std::move(store_in)),
        options(options_in),
        interval(beat_interval(options.timeout)),
        target(options.rank) {
    watch_next();
    last_answer = Clock::now();
  }

  // ---- the thread ----

  void run() {
    std::unique_lock lock(mutex);
    while (!stops) {
      if (line.empty()) unlocked(lock, [&] { beat(); });
      if (last_words && !were_first) {
        bool is_first = true;
        unlocked(lock, [&] { is_first = say_last_words(*last_words); });
        were_first = is_first;
        changed.notify_all();
      }
      changed.wait_for(lock, interval, [&] { return stops || (last_words && !were_first); });
    }
    if (leaves) unlocked(lock, [&] { say_farewell(); });
    is_finished = true;
    changed.notify_all();
  }

  void beat() {
    try {
      store->set(beat_key(options.rank), fmt::format("{} {}", num_beats++, num_operations.load()));
      if (is_suspicious) store->set(kSuspect, std::string("1"));
      if (store->check({kEnd})) {
        set_line(store->get_to_str(kEnd));
        return;
      }
      look_at_target();
      if (is_suspicious) find_those_behind();
      last_answer = Clock::now();
    } catch (const std::exception&) {
      set_line(store_gone().what());
    }
  }

  void look_at_target() {
    if (target == options.rank) return;  // all others have left
    const std::string beat = store->get_to_str(beat_key(target));
    const Clock::time_point now = Clock::now();
    if (beat == kLeft) {
      watch_next();
    } else if (beat != last_beat) {
      last_beat = beat;
      last_change = now;
    } else {
      const auto silence = std::chrono::duration_cast<milliseconds>(now - last_change);
      const milliseconds allowed = store->check({kSuspect})
                                       ? std::min(kSuspectBeats * interval, options.timeout)
                                       : options.timeout;
      if (silence >= allowed) {
        const std::string found = gone(target, silence).what();
        if (write_end(found)) spdlog::error("{}", found);
      }
    }
  }

  void watch_next() {
    target = (target + 1) % options.size;
    last_beat.clear();
    last_change = Clock::now();
  }

  void find_those_behind() {
    std::string ranks;
    for (int rank = 0; rank < options.size; ++rank) {
      const std::string beat = store->get_to_str(beat_key(rank));
      const std::size_t space = beat.find(' ');
      const bool counts = rank != options.rank && space != std::string::npos;
      if (counts && std::atoll(beat.c_str() + space) < num_operations) {
        ranks += fmt::format("{}{}", ranks.empty() ? "" : ", ", rank);
      }
    }
    const std::lock_guard lock(mutex);
    behind = ranks;
  }

  // Whether nobody has written one before. The line that counts becomes this rank's.
  bool write_end(const std::string& text) {
    const std::string by_rank = fmt::format("rank {}: {}", options.rank, text);
    const std::string written = store->compareSet(kEnd, std::string(), by_rank);
    set_line(written);
    return written == by_rank;
  }

  bool say_last_words(const std::string& text) {
    try {
      const bool is_first = write_end(text);
      std::int64_t num_ended = store->add(kEnded, 1);
      const auto deadline = Clock::now() + std::min(kLongestFarewell, options.timeout);
      while (options.keeps_store && num_ended < options.size && Clock::now() < deadline) {
        std::this_thread::sleep_for(milliseconds(10));
        num_ended = store->add(kEnded, 0);
      }
      return is_first;
    } catch (const std::exception&) {
      return true;
    }
  }

  void say_farewell() {
    try {
      store->set(beat_key(options.rank), std::string(kLeft));
    } catch (const std::exception&) {
      // Rank 0 left before and took the store along.
    }
  }

  // ---- both ----

  Error store_gone() const {
    return Error(ExitCode::kFailed, {options.store_name, "answers", "none: it is gone, or hangs",
                                     "start again (train: with --resume)"});
  }

  void set_line(const std::string& text) {
    const std::lock_guard lock(mutex);
    if (line.empty()) line = text;
  }

  // ---- the owner ----

  std::string current_line() {
    const std::lock_guard lock(mutex);
    const bool is_late = Clock::now() - last_answer.load() > options.timeout + 2 * interval;
    if (line.empty() && !is_finished && is_late) {
      store_hangs = true;
      line = store_gone().what();
    }
    return line;
  }

  // Returns when the thread has finished, or hangs for as long as the timeout says.
  void stop(bool with_farewell) {
    std::unique_lock lock(mutex);
    stops = true;
    leaves = leaves || with_farewell;
    changed.notify_all();
    changed.wait_until(lock, last_answer.load() + options.timeout, [&] { return is_finished; });
  }

  const c10::intrusive_ptr<c10d::Store> store;
  const Options options;
  const milliseconds interval;
  std::atomic<std::int64_t> num_operations = 0;
  std::atomic<bool> is_suspicious = false;  // a connection broke
  std::atomic<Clock::time_point> last_answer;

  // Of the thread:
  std::int64_t num_beats = 0;
  int target;  // the rank that is looked at
  std::string last_beat;
  Clock::time_point last_change;

  std::mutex mutex;  // of all below
  std::condition_variable changed;
  bool stops = false, leaves = false, is_finished = false, store_hangs = false;
  std::string line;                       // of the end; empty while there is none
  std::string behind;                     // ranks that have begun fewer operations
  std::optional<std::string> last_words;  // to be written as the end
  std::optional<bool> were_first;         // once they are
};

Watch::Watch(c10::intrusive_ptr<c10d::Store> store, const Options& options)
    : state_(std::make_shared<State>(std::move(store), options)) {
  std::thread([state = state_] { state->run(); }).detach();
}

Watch::~Watch() { state_->stop(/*with_farewell=*/false); }

void Watch::check() const {
  const std::string line = state_->current_line();
  if (line.empty()) return;
  throw Error(ExitCode::kFailed, {"several processes", "all of them to go on", line, ""});
}

void Watch::count_operation() { ++state_->num_operations; }

void Watch::blame(const std::string& symptom) {
  state_->is_suspicious = true;
  const auto deadline =
      Clock::now() + state_->options.timeout + 2 * kSuspectBeats * state_->interval;
  while (Clock::now() < deadline) {
    check();
    std::this_thread::sleep_for(milliseconds(10));
  }
  const std::lock_guard lock(state_->mutex);
  const std::string first_line = symptom.substr(0, symptom.find('\n'));
  if (state_->behind.empty()) {
    throw Error(ExitCode::kFailed, {"several processes", "to be connected", first_line, ""});
  }
  throw Error(ExitCode::kFailed, {"rank " + state_->behind, "at every sum over the ranks",
                                  "none: it lives but does not come (" + first_line + ")", ""});
}

bool Watch::end(const std::string& line) {
  std::unique_lock lock(state_->mutex);
  if (state_->store_hangs) return true;
  state_->last_words = line;
  state_->changed.notify_all();
  const auto longest = state_->options.timeout + kLongestFarewell;
  state_->changed.wait_until(lock, state_->last_answer.load() + longest,
                             [&] { return state_->were_first.has_value(); });
  return state_->were_first.value_or(true);
}

void Watch::leave() { state_->stop(/*with_farewell=*/true); }

}  // namespace loza
