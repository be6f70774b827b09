#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace loza {

// The processes that do one job together, each of which is a rank. All of them call sum, gather
// and leave in the same order; a rank that comes early waits. Not thread-safe.
class Group {
 public:
  virtual ~Group() = default;
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  // The group of one process: sums are what they were.
  static Group& alone();

  int rank() const { return rank_; }
  int size() const { return size_; }
  // Among the ranks of its host: the index of its device.
  int local_rank() const { return local_rank_; }
  // Rank 0 writes and prints for all.
  bool is_first() const { return rank_ == 0; }

  // Replaces each tensor by its sum over the ranks, the same bits on all of them. Tensors have
  // the same shapes, dtypes and devices on every rank; small ones travel together.
  // Throws Error(kFailed) when a rank is gone or has failed.
  void sum(const std::vector<at::Tensor>& tensors);
  // Every rank's value, by rank. Throws as sum does.
  std::vector<double> gather(double value);

  // Throws as sum does if a rank is known to be gone, without waiting for any.
  virtual void check() {}
  // The work is done: waits until it is on all ranks. Throws as sum does.
  virtual void leave() {}
  // This rank ends with an error of its own: tells the others, so that they end as well.
  // Returns whether nobody has told of an end before, so that the line should be printed.
  virtual bool fail(const std::string& /*line*/) { return true; }

 protected:
  Group(int rank, int size, int local_rank) : rank_(rank), size_(size), local_rank_(local_rank) {}

 private:
  // Sums a contiguous tensor in place. Called where there are several ranks.
  virtual void sum_flat(at::Tensor& flat) = 0;

  int rank_, size_, local_rank_;
};

}  // namespace loza
