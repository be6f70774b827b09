#include "loza/base/table.h"

#include <algorithm>
#include <utility>

#include "loza/base/check.h"

namespace loza {
namespace {

// Characters that a terminal shows: UTF-8 continuation bytes take no column.
std::size_t shown_width(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

}  // namespace

Table::Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }

void Table::add_row(std::vector<std::string> cells) {
  LOZA_CHECK(cells.size() == rows_[0].size(), cells.size(), rows_[0].size());
  rows_.push_back(std::move(cells));
}

std::string Table::to_string() const {
  std::vector<std::size_t> widths(rows_[0].size(), 3);
  for (const auto& row : rows_) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      widths[c] = std::max(widths[c], shown_width(row[c]));
    }
  }
  std::string out;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    out += '|';
    for (std::size_t c = 0; c < widths.size(); ++c) {
      const std::string padding(widths[c] - shown_width(rows_[r][c]), ' ');
      out += c == 0 ? " " + rows_[r][c] + padding + " |" : " " + padding + rows_[r][c] + " |";
    }
    out += '\n';
    if (r > 0) continue;
    out += '|';
    for (std::size_t c = 0; c < widths.size(); ++c) {
      out += c == 0 ? " " + std::string(widths[c], '-') + " |"
                    : " " + std::string(widths[c] - 1, '-') + ": |";
    }
    out += '\n';
  }
  return out;
}

}  // namespace loza
