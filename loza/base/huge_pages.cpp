#include "loza/base/huge_pages.h"

#include <algorithm>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "loza/base/check.h"

namespace loza {
namespace {

constexpr std::int64_t kHugePage = std::int64_t{2} << 20;
constexpr std::int64_t kLine = 64;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] std::int64_t bytes) {
#ifdef MADV_HUGEPAGE
  ::madvise(data, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);
#endif
}

std::shared_ptr<std::byte> allocate_huge_pages(std::int64_t bytes) {
  LOZA_CHECK(bytes >= 0, bytes);
  const std::int64_t alignment = bytes >= kHugePage ? kHugePage : kLine;
  const auto align = static_cast<std::align_val_t>(alignment);
  const auto size = static_cast<std::size_t>(round_up(std::max<std::int64_t>(bytes, 1), alignment));
  auto* memory = static_cast<std::byte*>(::operator new(size, align));
  if (alignment == kHugePage) prefer_huge_pages(memory, static_cast<std::int64_t>(size));
  return {memory, [align](std::byte* data) { ::operator delete(data, align); }};
}

std::shared_ptr<std::byte> HugePageArena::take(std::int64_t bytes) {
  constexpr std::int64_t kBlock = std::int64_t{32} << 20;
  const std::int64_t needed = round_up(std::max<std::int64_t>(bytes, 1), kLine);
  if (needed > size_ - used_) {
    size_ = std::max(kBlock, round_up(needed, kHugePage));
    block_ = allocate_huge_pages(size_);
    used_ = 0;
  }
  std::shared_ptr<std::byte> piece(block_, block_.get() + used_);
  used_ += needed;
  return piece;
}

}  // namespace loza
