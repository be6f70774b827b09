#include "loza/parallel/join.h"

#include <c10/util/Logging.h>
#include <fmt/format.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <csignal>
#include <cstdlib>
#include <thread>
#include <vector>

#include "loza/base/check.h"
#include "loza/base/error.h"
#include "loza/parallel/backends.h"
#include "loza/parallel/watch.h"

namespace loza {
namespace {

using std::chrono::milliseconds;
using Store = c10::intrusive_ptr<c10d::Store>;

// Sockets that are refused or broken are told of in our words; c10d's, with its stack traces, are
// for those who ask for them.
void quiet_c10d() {
  constexpr int kNothing = 4;  // above FATAL
  if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) FLAGS_caffe2_log_level = kNothing;
}

// Gloo writes to connections that the other side has closed: an error that it reports, and not the
// end of this process.
void ignore_broken_pipes() { std::signal(SIGPIPE, SIG_IGN); }

std::string store_name(const Launch& launch) {
  return fmt::format("{} at {}:{}",
                     launch.has_store ? "the launcher's store" : "the store of rank 0",
                     launch.address, launch.port);
}

bool keeps_store(const Launch& launch) { return launch.rank == 0 && !launch.has_store; }

Store connect(const Launch& launch, bool as_server, milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<std::uint16_t>(launch.port);
  options.isServer = as_server;
  options.waitWorkers = false;
  options.timeout = timeout;
  try {
    return c10::make_intrusive<c10d::TCPStore>(launch.address, options);
  } catch (const c10::Error& error) {
    const std::string message = error.what_without_backtrace();
    throw Error(ExitCode::kFailed,
                {store_name(launch), as_server ? "a free port" : "an answer",
                 message.substr(0, message.find('\n')),
                 "see that MASTER_ADDR and MASTER_PORT name rank 0's host and a free port of it"});
  }
}

// Waits until all ranks are here.
void meet(c10d::Store& store, const Launch& launch, milliseconds timeout) {
  std::vector<std::string> keys;
  for (int rank = 0; rank < launch.size; ++rank) keys.push_back(beat_key(rank));
  store.set(beat_key(launch.rank), std::string("here"));
  try {
    store.wait(keys, timeout);
  } catch (const c10::Error&) {
    std::string missing;
    for (int rank = 0; rank < launch.size; ++rank) {
      if (store.check({beat_key(rank)})) continue;
      missing += fmt::format("{}{}", missing.empty() ? "" : ", ", rank);
    }
    throw Error(ExitCode::kFailed, {fmt::format("rank {}", missing),
                                    fmt::format("to come within {:.3g} s",
                                                std::chrono::duration<double>(timeout).count()),
                                    "nothing", "a longer --timeout waits longer"});
  }
}

class JoinedGroup final : public Group {
 public:
  JoinedGroup(const Launch& launch, const JoinOptions& options)
      : Group(launch.rank, launch.size, launch.local_rank),
        store_(connect(launch, keeps_store(launch), options.meeting)),
        options_(options) {
    meet(*store_, launch, options.meeting);
    watch_ = std::make_unique<Watch>(
        connect(launch, /*as_server=*/false, options.timeout),
        Watch::Options{rank(), size(), options.timeout, store_name(launch), keeps_store(launch)});
    cpu_ = made([&] { return backend::make_gloo(place("gloo")); });
  }

  ~JoinedGroup() override {
    if (!is_broken_) return;
    // Their threads wait for ranks that are gone, and would be waited for.
    cpu_.release();
    cuda_.release();
  }

  void check() override {
    try {
      watch_->check();
    } catch (...) {
      is_broken_ = true;
      throw;
    }
  }

  void leave() override {
    at::Tensor none = at::zeros({1});
    sum_flat(none);
    watch_->leave();
  }

  bool fail(const std::string& line) override {
    is_broken_ = true;
    return watch_->end(line);
  }

 private:
  void sum_flat(at::Tensor& flat) override {
    LOZA_CHECK(flat.is_contiguous());
    c10d::Backend& backend = backend_of(flat.device());
    watch_->count_operation();
    try {
      std::vector<at::Tensor> tensors = {flat};
      const auto work = backend.allreduce(tensors);
      wait_for(*work);
    } catch (const c10::Error& error) {
      break_by(error.what_without_backtrace());
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      break_by(error.what());
    }
  }

  // Polls, so that the watch can end it.
  void wait_for(c10d::Work& work) {
    milliseconds::rep num_polls = 0;
    while (!work.isCompleted()) {
      check();
      std::this_thread::sleep_for(std::chrono::microseconds(num_polls++ < 100 ? 20 : 500));
    }
    work.wait();
  }

  [[noreturn]] void break_by(const std::string& symptom) {
    is_broken_ = true;
    watch_->blame(symptom);
  }

  c10d::Backend& backend_of(const at::Device& device) {
    if (device.is_cpu()) return *cpu_;
    if (!cuda_) cuda_ = made([&] { return backend::make_nccl(place("nccl")); });
    return *cuda_;
  }

  backend::Place place(const std::string& name) const {
    return {c10::make_intrusive<c10d::PrefixStore>("loza/" + name, store_), rank(), size(),
            options_.longest_wait};
  }

  template <typename Make>
  c10::intrusive_ptr<c10d::Backend> made(const Make& make) {
    try {
      return make();
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      break_by(error.what());
    }
  }

  Store store_;
  JoinOptions options_;
  std::unique_ptr<Watch> watch_;
  c10::intrusive_ptr<c10d::Backend> cpu_, cuda_;
  bool is_broken_ = false;
};

}  // namespace

std::unique_ptr<Group> join(const Launch& launch, const JoinOptions& options) {
  LOZA_CHECK(launch.size > 1, launch.size);
  quiet_c10d();
  ignore_broken_pipes();
  return std::make_unique<JoinedGroup>(launch, options);
}

}  // namespace loza
