#include "loza/base/parallel_for.h"

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "loza/base/check.h"

namespace loza {
namespace {

// Keeps the first exception of a parallel region.
class FirstException {
 public:
  template <typename Body>
  void guard(const Body& body) {
    try {
      body();
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!first_) first_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (first_) std::rethrow_exception(first_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr first_;
};

}  // namespace

#ifdef _OPENMP

int num_threads() { return omp_get_max_threads(); }

void set_num_threads(int count) {
  LOZA_CHECK(count >= 1, count);
  omp_set_num_threads(count);
}

int thread_index() { return omp_get_thread_num(); }

void parallel_for(std::int64_t n, const std::function<void(std::int64_t)>& body) {
  if (n <= 1 || num_threads() == 1 || omp_in_parallel()) {
    for (std::int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  FirstException failure;
#pragma omp parallel for schedule(dynamic, 1)
  for (std::int64_t i = 0; i < n; ++i) {
    failure.guard([&] { body(i); });
  }
  failure.rethrow();
}

#else

namespace {
std::atomic<int> thread_count{static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))};
thread_local int this_thread_index = 0;
thread_local bool in_parallel = false;
}  // namespace

int num_threads() { return thread_count; }

void set_num_threads(int count) {
  LOZA_CHECK(count >= 1, count);
  thread_count = count;
}

int thread_index() { return this_thread_index; }

void parallel_for(std::int64_t n, const std::function<void(std::int64_t)>& body) {
  if (n <= 1 || thread_count == 1 || in_parallel) {
    for (std::int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  FirstException failure;
  std::atomic<std::int64_t> next{0};
  auto work = [&](int index) {
    this_thread_index = index;
    in_parallel = true;
    for (std::int64_t i = next++; i < n; i = next++) failure.guard([&] { body(i); });
    in_parallel = false;
    this_thread_index = 0;
  };
  std::vector<std::thread> threads;
  for (int index = 1; index < thread_count; ++index) threads.emplace_back(work, index);
  work(0);
  for (auto& thread : threads) thread.join();
  failure.rethrow();
}

#endif

}  // namespace loza
