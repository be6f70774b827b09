#include "loza/engine/page_pool.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <limits>

#include "loza/base/check.h"
#include "loza/base/error.h"
#include "loza/base/huge_pages.h"

namespace loza {

PagePool::PagePool(std::int64_t num_pages) {
  LOZA_CHECK(num_pages >= 0 && num_pages < std::numeric_limits<std::int32_t>::max(), num_pages);
  used_.assign(static_cast<std::size_t>(num_pages), false);
  free_.reserve(used_.size());
  for (std::int64_t page = num_pages - 1; page >= 0; --page) {
    free_.push_back(static_cast<std::int32_t>(page));
  }
}

std::optional<std::int32_t> PagePool::allocate() {
  if (free_.empty()) return std::nullopt;
  const std::int32_t page = free_.back();
  free_.pop_back();
  used_[static_cast<std::size_t>(page)] = true;
  return page;
}

void PagePool::release(std::int32_t page) {
  LOZA_CHECK(page >= 0 && page < num_pages() && is_used(page), page, num_pages());
  used_[static_cast<std::size_t>(page)] = false;
  free_.push_back(page);
}

std::shared_ptr<std::byte> allocate_system_memory(std::int64_t bytes) {
  void* data = ::mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    throw Error(ExitCode::kDoesNotFit,
                {"KV cache", fmt::format("{} bytes of memory", bytes), std::strerror(errno),
                 "take a shorter length or fewer sequences"});
  }
  prefer_huge_pages(data, bytes);  // decode reads it from end to end
  return {static_cast<std::byte*>(data),
          [bytes](std::byte* memory) { ::munmap(memory, static_cast<std::size_t>(bytes)); }};
}

KvMemory::KvMemory(std::int64_t bytes, const KvAllocator& allocate) : bytes_(bytes) {
  LOZA_CHECK(bytes >= 0, bytes);
  if (bytes > 0) data_ = allocate(bytes);
}

void KvMemory::poison(std::int64_t offset, std::int64_t bytes) {
  LOZA_CHECK(offset >= 0 && bytes >= 0 && offset + bytes <= bytes_, offset, bytes, bytes_);
  if (bytes > 0) std::memset(data_.get() + offset, 0xFF, static_cast<std::size_t>(bytes));
}

}  // namespace loza
