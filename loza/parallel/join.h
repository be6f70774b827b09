#pragma once

#include <chrono>
#include <memory>

#include "loza/parallel/group.h"
#include "loza/parallel/launch.h"

namespace loza {

struct JoinOptions {
  // A rank that shows no sign of life for so long counts as gone; far sooner where its
  // connections broke.
  std::chrono::milliseconds timeout = std::chrono::seconds(60);
  // So long the ranks wait for each other to come.
  std::chrono::milliseconds meeting = std::chrono::seconds(60);
  // A rank that lives but keeps the others waiting for so long is stuck.
  std::chrono::milliseconds longest_wait = std::chrono::minutes(30);
};

// Meets the launch's other ranks. Tensors on the CPU are summed by Gloo, those on a CUDA device
// by NCCL. The process ignores SIGPIPE from here on. Throws Error(kFailed) that names the ranks
// that have not come, Error(kUsage) where this build has no Gloo. REQUIRES: launch.size > 1.
std::unique_ptr<Group> join(const Launch& launch, const JoinOptions& options);

}  // namespace loza
