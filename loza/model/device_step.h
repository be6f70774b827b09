#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "loza/attention/params.h"

namespace loza {

// Where a step of one new token a sequence finds its keys and leaves its rows, all of it in the
// device's memory: nothing is read on the host, so that a CUDA graph can capture the step, and
// what it holds then is where the next replay looks.
struct DeviceStep {
  struct Module {
    PagedKvView kv;       // page_table and lengths too are pointers of the device
    at::Tensor new_rows;  // [B] int64: rows of the pages, counted over all of them
  };
  std::vector<Module> modules;
  std::int64_t max_length = 0;  // bounds the lengths
};

}  // namespace loza
