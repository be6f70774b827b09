#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace loza {

// Memory for what is read from end to end again and again, such as weights and caches, in pages of
// 2 MiB where the system has them: a processor that reads ahead stops at each page's end, and at
// pages of 4 KiB one core reads a third slower. Not initialised; aligned to 64 bytes at least.
std::shared_ptr<std::byte> allocate_huge_pages(std::int64_t bytes);

// Asks for such pages for memory that is there already. A wish: where it is not granted, or the
// system has none, pages are small.
void prefer_huge_pages(void* data, std::int64_t bytes);

// Many small pieces of such memory, which lie behind each other. A block of pages is freed with
// its last piece.
class HugePageArena {
 public:
  std::shared_ptr<std::byte> take(std::int64_t bytes);

 private:
  std::shared_ptr<std::byte> block_;
  std::int64_t used_ = 0, size_ = 0;
};

}  // namespace loza
