#pragma once

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <memory>
#include <string>

namespace loza {

// Finds out who is gone. Every rank counts up a number of its own in the store, and reads that
// of the next rank; whoever sees it stand still writes down the end of the job, which all read.
// The members belong to one thread; a second one counts, and alone speaks with the store, so that
// a store that hangs hangs nobody else.
class Watch {
 public:
  struct Options {
    int rank = 0, size = 1;
    std::chrono::milliseconds timeout;  // of silence
    std::string store_name;             // whose end it is when the store does not answer
    bool keeps_store = false;           // the store ends with this process
  };

  // `store` is a connection of its own: its operations block. All ranks have written their
  // beat_key before.
  Watch(c10::intrusive_ptr<c10d::Store> store, const Options& options);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // Throws Error(kFailed) with the line of whoever ended the job.
  void check() const;
  // This rank begins its next collective operation.
  void count_operation();
  // An operation broke: throws check's error as soon as it is known who is gone, which a broken
  // connection makes a matter of few beats; else one about those that are behind, or `symptom`.
  [[noreturn]] void blame(const std::string& symptom);
  // Ends the job for all; whether this rank is the first to do so. A rank that keeps the store
  // waits for the others to have read it.
  bool end(const std::string& line);
  // Silence from here on is no sign of anything.
  void leave();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// Where a rank counts.
std::string beat_key(int rank);
// Between two counts.
std::chrono::milliseconds beat_interval(std::chrono::milliseconds timeout);

}  // namespace loza
