#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "bench/attention_cpu/sizes.h"
#include "loza/attention/params.h"

namespace loza::bench {

// One sequence's cache in pages that lie in random order. A call reads other pages than the one
// before it, so that a short window does not stay in a cache between calls.
class Cache {
 public:
  // REQUIRES: len is a multiple of 64, the length of a page.
  Cache(const Sizes& sizes, std::int64_t len, at::ScalarType dtype);

  // One new token at the end of `len` tokens, [1, H, V]. REQUIRES: len is at most the cache's.
  at::Tensor step(const BlockPattern& pattern, std::int64_t len);
  // What the next step will compute, by definition: attention over the rows that its table names.
  at::Tensor exact(const BlockPattern& pattern, std::int64_t len) const;
  // Bytes of a token's keys and values.
  double row_bytes() const;

 private:
  // Of the pages that the next step reads. It points to `len`.
  PagedKvView view(const std::int64_t& len) const;

  Sizes sizes_;
  bool is_latent_;
  std::int64_t num_pages_, first_page_ = 0;
  at::Tensor pages_, q_;
  std::vector<std::int32_t> table_;  // twice over
};

}  // namespace loza::bench
