#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace loza::cpu {

// Memory for numbers, aligned for vectors and not initialised. Grows, never shrinks: kept as
// thread_local scratch it is allocated once.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::int64_t size) { grow(size); }

  // At least `size` elements; what they held is lost when the memory had to grow.
  T* grow(std::int64_t size) {
    if (size > size_) {
      const auto bytes = static_cast<std::size_t>(size) * sizeof(T);
      data_.reset();
      data_.reset(static_cast<T*>(::operator new(bytes, kAlignment)));
      size_ = size;
    }
    return data_.get();
  }
  T* data() const { return data_.get(); }
  std::int64_t size() const { return size_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* data) const { ::operator delete(data, kAlignment); }
  };

  std::unique_ptr<T, Free> data_;
  std::int64_t size_ = 0;
};

}  // namespace loza::cpu
