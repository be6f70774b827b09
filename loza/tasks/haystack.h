#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace loza {

// A long text, cut into short pieces between which a sentence may be hidden: lines, and
// parts of lines where those are long. Immutable; thread-safe.
class Haystack {
 public:
  // `place` begins error lines. Throws Error(kBadInput) when the text is not UTF-8 or has
  // nothing in it but white space.
  Haystack(std::string text, const std::string& place);
  static Haystack from_file(const std::filesystem::path& path);

  std::size_t num_pieces() const { return begins_.size() - 1; }
  // A piece ends with a newline, but for parts of a long line. The pieces in their order
  // are the text.
  std::string_view piece(std::size_t i) const {
    return std::string_view(text_).substr(begins_[i], begins_[i + 1] - begins_[i]);
  }

 private:
  std::string text_;
  std::vector<std::size_t> begins_;  // one more than there are pieces
};

}  // namespace loza
