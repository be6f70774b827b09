#include "loza/base/check.h"

#include <stdexcept>

namespace loza::internal {

void check_failed(const char* condition, const char* file, int line, std::string values) {
  throw std::logic_error(fmt::format("{}:{}: LOZA_CHECK({}) failed; values: {}", file, line,
                                     condition, values.empty() ? "none" : values));
}

}  // namespace loza::internal
