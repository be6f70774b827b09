#include "bench/attention_cpu/cache.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstddef>
#include <memory>
#include <numeric>

#include "loza/attention/attention.h"
#include "loza/base/check.h"
#include "loza/base/random.h"
#include "loza/engine/page_pool.h"

namespace loza::bench {
namespace {

constexpr std::int64_t kPageLen = 64;

}  // namespace

Cache::Cache(const Sizes& sizes, std::int64_t len, at::ScalarType dtype)
    : sizes_(sizes), is_latent_(sizes.qk_size > 512), num_pages_(len / kPageLen) {
  LOZA_CHECK(len % kPageLen == 0, len);
  const std::int64_t row =
      is_latent_ ? sizes.qk_size : sizes.key_heads * (sizes.qk_size + sizes.v_size);
  // The engine's memory.
  const auto bytes = num_pages_ * kPageLen * row *
                     static_cast<std::int64_t>(element_bytes(attention::dtype_of(dtype)));
  const std::shared_ptr<std::byte> memory = allocate_system_memory(bytes);
  pages_ = at::from_blob(
      memory.get(), {num_pages_, kPageLen, row}, [memory](void*) {}, dtype);
  // Random numbers for one page, a little different in each: a gigabyte of them takes long.
  const at::Tensor page = at::randn({kPageLen, row});
  for (std::int64_t i = 0; i < num_pages_; ++i) {
    pages_[i].copy_(page * (1 + 0.1 * std::sin(static_cast<double>(i))));
  }
  Random random(7);
  table_.resize(static_cast<std::size_t>(num_pages_));
  std::iota(table_.begin(), table_.end(), 0);
  random.shuffle(table_);
  table_.insert(table_.end(), table_.begin(), table_.end());
  q_ = at::randn({1, sizes.heads, sizes.qk_size}).to(dtype);
}

at::Tensor Cache::step(const BlockPattern& pattern, std::int64_t len) {
  const PagedKvView kv = view(len);
  first_page_ = (first_page_ + 37) % num_pages_;
  return attention::attend_paged(q_, kv, 1, sizes_.key_heads, sizes_.v_size, pattern,
                                 sizes_.scale());
}

at::Tensor Cache::exact(const BlockPattern& pattern, std::int64_t len) const {
  const at::Tensor rows =
      pages_
          .index_select(
              0, at::tensor(std::vector<std::int64_t>(
                     table_.begin() + first_page_, table_.begin() + first_page_ + len / kPageLen)))
          .reshape({len, -1})
          .to(at::kDouble);
  const std::int64_t heads = sizes_.key_heads;
  const at::Tensor k = rows.narrow(1, 0, heads * sizes_.qk_size).view({len, heads, -1});
  const at::Tensor v =
      rows.narrow(1, is_latent_ ? 0 : heads * sizes_.qk_size, heads * sizes_.v_size)
          .view({len, heads, -1});
  attention::Sequences sequences;
  sequences.q_offsets = {0, 1};
  sequences.k_offsets = {0, len};
  return attention::attend(q_.to(at::kDouble), k, v, sequences, pattern, sizes_.scale());
}

double Cache::row_bytes() const {
  return static_cast<double>(pages_.size(2) * pages_.element_size());
}

PagedKvView Cache::view(const std::int64_t& len) const {
  PagedKvView kv;
  kv.dtype = attention::dtype_of(pages_.scalar_type());
  kv.pages = pages_.data_ptr();
  kv.page_stride = pages_.stride(0);
  kv.row_stride = pages_.stride(1);
  kv.page_len = kPageLen;
  kv.k_head_stride = sizes_.qk_size;
  kv.v_head_stride = sizes_.v_size;
  kv.v_offset = is_latent_ ? 0 : sizes_.key_heads * sizes_.qk_size;
  kv.page_table = table_.data() + first_page_;
  kv.table_stride = num_pages_;
  kv.lengths = &len;
  return kv;
}

}  // namespace loza::bench
