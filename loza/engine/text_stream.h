#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace loza {

// Turns the bytes of tokens into text that can be shown at once: whole UTF-8 characters, never
// a part of a stop string. Bytes that can't become a character are replaced by U+FFFD, one for
// each maximal part, as Unicode advises and Python does.
//
// A text ends before the stop string that is complete first when it is read byte by byte (the
// longest of those that end there), so the result does not depend on how tokens cut it.
// Not thread-safe.
class TextStream {
 public:
  // REQUIRES: no stop string is empty.
  explicit TextStream(std::vector<std::string> stops = {});

  // What became showable with these bytes; may be empty. After stopped() nothing more comes.
  std::string push(std::string_view bytes);
  // What was held back: the text ends here without a stop string.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  // Removes pending_[0, size) and returns it as whole characters. Bytes at its end that may
  // still become one stay pending unless `is_last`.
  std::string release(std::size_t size, bool is_last);

  std::vector<std::string> stops_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace loza
