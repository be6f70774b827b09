#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "tests/attention/cuda/guarded_outputs.h"
#include "tests/attention/cuda/low_precision.cuh"

// What the definition gives for chosen rows of an attention call, and results held against it.
namespace loza::attention::cuda {

// What a rounding-error bound needs comes with it: magnitude[d] = sum_j p_j |v_jd| and the largest
// scale * sum |q k|.
struct Truth {
  std::vector<double> out;         // [rows, V]
  std::vector<double> magnitude;   // [rows, V]
  std::vector<double> lse;         // [rows]
  std::vector<double> score_size;  // [rows]
};

// The same arrays, as a kernel writes them.
struct TruthOnDevice {
  double *out, *magnitude, *lse, *score_size;
};

// `launch(scores, result)` starts the kernel that fills `result`; scores [rows, max_keys] is its
// scratch memory.
template <typename Launch>
Truth compute_truth(std::int64_t rows, std::int64_t v_size, std::int64_t max_keys,
                    const Launch& launch) {
  DeviceArray<double> scores(rows * max_keys), out(rows * v_size), magnitude(rows * v_size),
      lse(rows), score_size(rows);
  launch(scores.data(), TruthOnDevice{out.data(), magnitude.data(), lse.data(), score_size.data()});
  LOZA_CUDA_CHECK(cudaGetLastError());
  return {out.get(), magnitude.get(), lse.get(), score_size.get()};
}

// Where a result leaves its bound.
struct Difference {
  std::size_t row_idx;  // of the truth's rows
  std::int64_t d;       // -1: the lse
  double got, want;

  // " d 3: got 1.5, expected 1.25"
  std::string text() const {
    return (d < 0 ? " lse" : " d " + std::to_string(d)) + ": got " + std::to_string(got) +
           ", expected " + std::to_string(want);
  }
};

// The first one, in the order of the truth's rows: its row i is row rows[i] = token * H + head of
// the result. REQUIRES: there are rows.
inline std::optional<Difference> first_difference(const Outputs& result,
                                                  const std::vector<std::int64_t>& rows,
                                                  const Truth& truth, const Bounds& bounds) {
  const std::size_t v_size = truth.out.size() / rows.size();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    float lse;
    std::memcpy(&lse, &result.lse[rows[i]], sizeof lse);
    if (!bounds.allow_lse(lse, truth.lse[i], truth.score_size[i])) {
      return Difference{i, -1, lse, truth.lse[i]};
    }
    for (std::size_t d = 0; d < v_size; ++d) {
      const double want = truth.out[i * v_size + d];
      const double got = element_value(bounds.dtype, result.out[rows[i] * v_size + d]);
      if (!bounds.allow_out(got, want, truth.magnitude[i * v_size + d], truth.score_size[i])) {
        return Difference{i, static_cast<std::int64_t>(d), got, want};
      }
    }
  }
  return std::nullopt;
}

// The largest error over its bound, above 1 where a result is wrong, infinite where one is NaN.
// `rows`: where the truth's rows of the output lie in device memory; not empty.
inline double worst_error(const std::vector<const bf16*>& rows, const Truth& truth,
                          const Bounds& bounds) {
  const std::size_t v_size = truth.out.size() / rows.size();
  std::vector<bf16> got(v_size);
  double worst = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    LOZA_CUDA_CHECK(cudaMemcpy(got.data(), rows[i], v_size * 2, cudaMemcpyDeviceToHost));
    for (std::size_t d = 0; d < v_size; ++d) {
      const double want = truth.out[i * v_size + d];
      const double error = std::fabs(static_cast<float>(got[d]) - want);
      const double share =
          error / bounds.of_out(want, truth.magnitude[i * v_size + d], truth.score_size[i]);
      if (std::isnan(share)) return INFINITY;
      worst = std::max(worst, share);
    }
  }
  return worst;
}

}  // namespace loza::attention::cuda
