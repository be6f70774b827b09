#include "loza/tasks/haystack.h"

#include <fmt/format.h>

#include <utility>

#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/base/utf8.h"

namespace loza {
namespace {

constexpr std::size_t kMaxPieceBytes = 240;

// Where the piece that begins at `begin` ends: after the line's end, or in a long line
// after a sentence, else after a word, else after a character.
std::size_t piece_end(std::string_view text, std::size_t begin) {
  const std::string_view rest = text.substr(begin);
  const std::size_t line_end = rest.find('\n');
  const std::size_t line_size = line_end == rest.npos ? rest.size() : line_end + 1;
  if (line_size <= kMaxPieceBytes) return begin + line_size;
  const std::string_view head = rest.substr(0, kMaxPieceBytes);
  if (const std::size_t stop = head.rfind(". "); stop != head.npos) return begin + stop + 2;
  if (const std::size_t space = head.rfind(' '); space != head.npos) return begin + space + 1;
  std::size_t size = kMaxPieceBytes;
  while ((static_cast<unsigned char>(rest[size]) & 0xC0) == 0x80) --size;
  return begin + size;
}

}  // namespace

Haystack::Haystack(std::string text, const std::string& place) : text_(std::move(text)) {
  if (const std::size_t error = utf8_error(text_); error != text_.size()) {
    throw_bad_input(place, "a text in UTF-8", fmt::format("other bytes at {}", error));
  }
  if (text_.find_first_not_of(" \t\r\n") == text_.npos) {
    throw_bad_input(place, "a text", "nothing but white space");
  }
  for (std::size_t begin = 0; begin < text_.size(); begin = piece_end(text_, begin)) {
    begins_.push_back(begin);
  }
  begins_.push_back(text_.size());
}

Haystack Haystack::from_file(const std::filesystem::path& path) {
  return Haystack(read_file(path), path.string());
}

}  // namespace loza
