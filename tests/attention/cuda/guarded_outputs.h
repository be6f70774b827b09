#pragma once

#include <cstdint>
#include <vector>

#include "loza/attention/params.h"
#include "tests/attention/cuda/cuda_check.h"

namespace loza::attention::cuda {

// What an attention call wrote, as bits, and whether everything around it is still poison.
struct Outputs {
  std::vector<std::uint16_t> out;  // [T, H, V] without gaps
  std::vector<std::uint32_t> lse;  // [T, H]
  bool canaries_alive = true;
  bool operator==(const Outputs&) const = default;
};

// Device memory for the output and the lse of an attention call, with canaries before, behind and
// in the gaps.
class GuardedOutputs {
 public:
  GuardedOutputs() = default;
  // `shape`: the strides that the output shall have.
  GuardedOutputs(std::int64_t tokens, std::int64_t heads, std::int64_t v_size,
                 const TensorView& shape)
      : tokens_(tokens),
        heads_(heads),
        v_size_(v_size),
        view_(shape),
        out_(tokens * shape.token_stride + 2 * kCanary),
        lse_(tokens * heads + 2 * kCanary) {
    view_.data = out_.data() + kCanary;
  }

  TensorView out() const { return view_; }
  float* lse() const { return reinterpret_cast<float*>(lse_.data() + kCanary); }

  void poison() {
    out_.fill_bytes(0xFF);
    lse_.fill_bytes(0xFF);
  }

  // All of the memory: cheaper to read, and enough to compare runs of one case.
  struct Bits {
    std::vector<std::uint16_t> out;
    std::vector<std::uint32_t> lse;
    bool operator==(const Bits&) const = default;
  };
  Bits read_bits() const { return {out_.get(), lse_.get()}; }

  Outputs read() const {
    Outputs result;
    const auto [out, lse] = read_bits();
    std::vector<bool> written(out.size(), false);
    for (std::int64_t t = 0; t < tokens_; ++t) {
      for (std::int64_t h = 0; h < heads_; ++h) {
        const std::int64_t begin = kCanary + t * view_.token_stride + h * view_.head_stride;
        for (std::int64_t d = 0; d < v_size_; ++d) {
          result.out.push_back(out[begin + d]);
          written[begin + d] = true;
        }
      }
    }
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (!written[i] && out[i] != 0xFFFF) result.canaries_alive = false;
    }
    for (std::int64_t i = 0; i < kCanary; ++i) {
      if (lse[i] != 0xFFFFFFFF || lse[lse.size() - 1 - i] != 0xFFFFFFFF) {
        result.canaries_alive = false;
      }
    }
    result.lse.assign(lse.begin() + kCanary, lse.end() - kCanary);
    return result;
  }

 private:
  static constexpr std::int64_t kCanary = 128;

  std::int64_t tokens_ = 0, heads_ = 0, v_size_ = 0;
  TensorView view_;
  DeviceArray<std::uint16_t> out_;
  DeviceArray<std::uint32_t> lse_;
};

}  // namespace loza::attention::cuda
