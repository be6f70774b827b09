#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

namespace loza {

// Numbers of equal pages, and which of them are free. It owns no memory: pages are places in
// whatever its user laid out. Not thread-safe.
// Invariant: num_used() + num_free() == num_pages(); a page is handed out to one holder only.
class PagePool {
 public:
  // REQUIRES: 0 <= num_pages < 2^31.
  explicit PagePool(std::int64_t num_pages);

  // A free page, the lowest numbers first in a fresh pool; nothing when all are used.
  std::optional<std::int32_t> allocate();
  // REQUIRES: the page is used.
  void release(std::int32_t page);

  std::int64_t num_pages() const { return static_cast<std::int64_t>(used_.size()); }
  std::int64_t num_free() const { return static_cast<std::int64_t>(free_.size()); }
  std::int64_t num_used() const { return num_pages() - num_free(); }
  bool is_used(std::int32_t page) const { return used_[static_cast<std::size_t>(page)]; }

 private:
  std::vector<std::int32_t> free_;  // a stack: what was freed last is warm in the cache
  std::vector<bool> used_;          // [pages]
};

// Gives memory of a device, zeroed; it is freed with the last pointer.
// Throws Error(kDoesNotFit) when there is not as much.
using KvAllocator = std::function<std::shared_ptr<std::byte>(std::int64_t bytes)>;

// The system's memory, aligned to its pages and committed when first touched: a large reservation
// costs nothing until it is written.
std::shared_ptr<std::byte> allocate_system_memory(std::int64_t bytes);

// The memory of a cache's pages. Movable.
class KvMemory {
 public:
  KvMemory() = default;
  KvMemory(std::int64_t bytes, const KvAllocator& allocate);

  std::byte* data() const { return data_.get(); }
  std::int64_t size_bytes() const { return bytes_; }
  // Fills [offset, offset + bytes) with all ones bits, a NaN in every floating dtype.
  // REQUIRES: memory of the system.
  void poison(std::int64_t offset, std::int64_t bytes);

 private:
  std::shared_ptr<std::byte> data_;
  std::int64_t bytes_ = 0;
};

}  // namespace loza
