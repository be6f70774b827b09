#pragma once

#include <cstdint>
#include <memory>

#include "loza/train/data.h"

namespace loza {

struct PrefetchOptions {
  std::int64_t num_threads = 1;
  std::int64_t num_ahead = 64;  // documents that are drawn before they are asked for
  std::int64_t end = 0;         // no document from this index on is drawn ahead
};

// The same documents as `draw` gives, made by threads of their own ahead of the call that asks for
// them, so that a GPU does not wait. It counts on documents being asked for in order, with one
// seed; others are right, too, but slower. `draw` must be thread-safe. The result is not, and its
// copies share the threads.
DrawDocument prefetched(DrawDocument draw, const PrefetchOptions& options);

}  // namespace loza
