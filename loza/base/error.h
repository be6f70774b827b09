#pragma once

#include <stdexcept>
#include <string>

namespace loza {

// What a failed command returns to the shell.
enum class ExitCode : int {
  kOk = 0,
  kFailed = 1,          // something broke while running
  kUsage = 2,           // the command line is wrong
  kBadInput = 3,        // a file or a config is wrong
  kDoesNotFit = 4,      // memory or disk is too small
  kBelowThreshold = 5,  // a required score was not reached
  kInterrupted = 130,
};

// The user's error, in one line: where it happened, what was expected there, what was
// found instead, and what to do about it. Never thrown for our own mistakes: those are
// LOZA_CHECK's (base/check.h).
class Error : public std::runtime_error {
 public:
  struct Text {
    std::string place;     // "model.safetensors: tensor 'lm_head.weight'"
    std::string expected;  // "shape [49152, 576]"
    std::string got;       // "[49152, 512]"
    std::string remedy;    // "download the file again"; may be empty
  };

  Error(ExitCode code, Text text);

  ExitCode code() const { return code_; }
  const Text& text() const { return text_; }

 private:
  ExitCode code_;
  Text text_;
};

// Error(kBadInput, ...): the file or config at `place` is not as it must be.
[[noreturn]] void throw_bad_input(std::string place, std::string expected, std::string got,
                                  std::string remedy = "");

// Error(kUsage, ...): an option's value is not as it must be.
[[noreturn]] void throw_usage(std::string place, std::string expected, std::string got,
                              std::string remedy = "");

}  // namespace loza
