#include "loza/train/prefetch.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "loza/base/check.h"

namespace loza {
namespace {

// Threads that work off a queue.
class Workers {
 public:
  explicit Workers(std::int64_t num_threads) {
    for (std::int64_t i = 0; i < num_threads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~Workers() {
    {
      const std::lock_guard lock(mutex_);
      is_ending_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  void add(std::function<void()> job) {
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    changed_.notify_one();
  }

 private:
  void work() {
    while (true) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return is_ending_ || !jobs_.empty(); });
      if (is_ending_) return;
      const std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool is_ending_ = false;
  std::vector<std::thread> threads_;
};

class Prefetcher {
 public:
  Prefetcher(DrawDocument draw, const PrefetchOptions& options)
      : draw_(std::move(draw)), options_(options), workers_(options.num_threads) {
    LOZA_CHECK(options.num_threads >= 1 && options.num_ahead >= 1, options.num_threads,
               options.num_ahead);
  }

  TokenizedDocument draw(std::uint64_t seed, std::int64_t index) {
    if (seed != seed_) coming_.clear();
    seed_ = seed;
    // What lies before is not asked for again.
    coming_.erase(coming_.begin(), coming_.lower_bound(index));
    const std::int64_t end =
        std::max(index + 1, std::min(index + options_.num_ahead, options_.end));
    for (std::int64_t i = index; i < end; ++i) {
      if (coming_.count(i) == 0) order(i);
    }
    const auto wanted = coming_.find(index);
    std::future<TokenizedDocument> document = std::move(wanted->second);
    coming_.erase(wanted);
    return document.get();  // an error of draw is thrown here
  }

 private:
  void order(std::int64_t index) {
    auto task = std::make_shared<std::packaged_task<TokenizedDocument()>>(
        [this, seed = seed_, index] { return draw_(seed, index); });
    coming_.emplace(index, task->get_future());
    workers_.add([task] { (*task)(); });
  }

  DrawDocument draw_;
  PrefetchOptions options_;
  std::uint64_t seed_ = 0;
  std::map<std::int64_t, std::future<TokenizedDocument>> coming_;  // by index
  Workers workers_;  // last: it ends before what its jobs use
};

}  // namespace

DrawDocument prefetched(DrawDocument draw, const PrefetchOptions& options) {
  auto prefetcher = std::make_shared<Prefetcher>(std::move(draw), options);
  return [prefetcher](std::uint64_t seed, std::int64_t index) {
    return prefetcher->draw(seed, index);
  };
}

}  // namespace loza
