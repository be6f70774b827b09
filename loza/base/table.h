#pragma once

#include <string>
#include <vector>

namespace loza {

// A table for people: columns padded to their widest cell, the first column to the left,
// the others to the right, a rule under the header. Written as Markdown, so that it can be
// pasted.
class Table {
 public:
  explicit Table(std::vector<std::string> header);
  // REQUIRES: as many cells as the header has.
  void add_row(std::vector<std::string> cells);
  std::string to_string() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace loza
