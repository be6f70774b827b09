#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>

// The ways in which a group's tensors travel, one file each: what is compiled out is refused
// there with Error(kUsage) that says what brings it back.
namespace loza::backend {

struct Place {
  c10::intrusive_ptr<c10d::Store> store;  // the backend's own keys
  int rank = 0, size = 1;
  std::chrono::milliseconds timeout;  // of one operation
};

// Tensors on the CPU.
c10::intrusive_ptr<c10d::Backend> make_gloo(const Place& place);
// Tensors on the current CUDA device.
c10::intrusive_ptr<c10d::Backend> make_nccl(const Place& place);

}  // namespace loza::backend
