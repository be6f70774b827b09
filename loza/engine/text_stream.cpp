#include "loza/engine/text_stream.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "loza/base/check.h"
#include "loza/base/utf8.h"

namespace loza {
namespace {

// Bytes at `offset` that begin a well-formed character without completing it (Unicode 15,
// table 3-7); 0 when its first byte can't begin one. REQUIRES: no whole character there.
std::size_t partial_character(std::string_view text, std::size_t offset) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[offset + i]); };
  const unsigned lead = byte(0);
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const std::size_t whole = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  const unsigned lowest = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned highest = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  std::size_t size = 1;
  while (size < whole && offset + size < text.size()) {
    const bool fits = size == 1 ? byte(1) >= lowest && byte(1) <= highest
                                : byte(size) >= 0x80 && byte(size) <= 0xBF;
    if (!fits) break;
    ++size;
  }
  return size;
}

struct Match {
  std::size_t begin = std::string::npos, end = std::string::npos;
};

// The stop string that ends first; of several, the one that begins first.
Match find_stop(std::string_view text, const std::vector<std::string>& stops) {
  Match first;
  for (const std::string& stop : stops) {
    const std::size_t begin = text.find(stop);
    if (begin == std::string_view::npos) continue;
    const std::size_t end = begin + stop.size();
    if (end < first.end || (end == first.end && begin < first.begin)) first = {begin, end};
  }
  return first;
}

// How many bytes at the end of the text may be the beginning of a stop string.
std::size_t possible_stop(std::string_view text, const std::vector<std::string>& stops) {
  std::size_t longest = 0;
  for (const std::string& stop : stops) {
    std::size_t size = std::min(stop.size() - 1, text.size());
    while (size > longest && !text.ends_with(std::string_view(stop).substr(0, size))) --size;
    longest = std::max(longest, size);
  }
  return longest;
}

}  // namespace

TextStream::TextStream(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) LOZA_CHECK(!stop.empty());
}

std::string TextStream::push(std::string_view bytes) {
  if (stopped_) return "";
  pending_ += bytes;
  const Match match = find_stop(pending_, stops_);
  if (match.begin != std::string::npos) {
    stopped_ = true;
    return release(match.begin, /*is_last=*/true);
  }
  return release(pending_.size() - possible_stop(pending_, stops_), /*is_last=*/false);
}

std::string TextStream::finish() {
  return stopped_ ? "" : release(pending_.size(), /*is_last=*/true);
}

std::string TextStream::release(std::size_t size, bool is_last) {
  const std::string_view ready = std::string_view(pending_).substr(0, size);
  std::string text;
  std::size_t offset = 0;
  while (offset < size) {
    const Utf8Char character = utf8_at(ready, offset);
    if (character.valid) {
      text += ready.substr(offset, character.size);
      offset += character.size;
      continue;
    }
    const std::size_t partial = partial_character(ready, offset);
    if (partial > 0 && offset + partial == size && !is_last) break;
    append_utf8(text, U'\uFFFD');
    offset += std::max<std::size_t>(partial, 1);
  }
  pending_.erase(0, offset);
  return text;
}

}  // namespace loza
