#include "loza/parallel/group.h"

#include <torch/torch.h>

#include "loza/base/check.h"

namespace loza {
namespace {

// Large enough that the wire counts and not the number of messages; a copy of so many bytes
// exists beside the tensors.
constexpr std::size_t kBucketBytes = std::size_t{32} << 20;

class Alone final : public Group {
 public:
  Alone() : Group(0, 1, 0) {}

 private:
  void sum_flat(at::Tensor&) override {}
};

bool fit_together(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.device() == b.device();
}

// Where the bucket that begins at `begin` ends.
std::size_t end_of_bucket(const std::vector<at::Tensor>& tensors, std::size_t begin) {
  std::size_t num_bytes = tensors[begin].nbytes();
  std::size_t end = begin + 1;
  while (end < tensors.size() && fit_together(tensors[begin], tensors[end]) &&
         num_bytes + tensors[end].nbytes() <= kBucketBytes) {
    num_bytes += tensors[end++].nbytes();
  }
  return end;
}

void copy_from(const at::Tensor& flat, const std::vector<at::Tensor>& tensors) {
  std::int64_t begin = 0;
  for (const at::Tensor& tensor : tensors) {
    tensor.copy_(flat.narrow(0, begin, tensor.numel()).view(tensor.sizes()));
    begin += tensor.numel();
  }
}

}  // namespace

Group& Group::alone() {
  static Alone alone;
  return alone;
}

void Group::sum(const std::vector<at::Tensor>& tensors) {
  if (size_ == 1) return;
  const at::NoGradGuard no_grad;
  for (std::size_t begin = 0; begin < tensors.size();) {
    const std::size_t end = end_of_bucket(tensors, begin);
    if (end == begin + 1 && tensors[begin].is_contiguous()) {
      at::Tensor flat = tensors[begin].detach().view(-1);
      sum_flat(flat);
    } else {
      std::vector<at::Tensor> bucket, rows;
      for (std::size_t i = begin; i < end; ++i) {
        bucket.push_back(tensors[i].detach());
        rows.push_back(bucket.back().reshape(-1));
      }
      at::Tensor flat = at::cat(rows);
      sum_flat(flat);
      copy_from(flat, bucket);
    }
    begin = end;
  }
}

std::vector<double> Group::gather(double value) {
  at::Tensor values = at::zeros({size_}, at::kDouble);
  values[rank_] = value;
  sum({values});
  return {values.const_data_ptr<double>(), values.const_data_ptr<double>() + size_};
}

}  // namespace loza
