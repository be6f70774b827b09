#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "loza/base/dtype.h"
#include "loza/model/cpu/row_kernels.h"
#include "loza/model/cpu/row_numbers.h"

// The loops behind RowKernels, written so that a compiler vectorises them. Each instruction
// set's file includes this one and compiles its own copy: everything here is local to it.
namespace loza::model_cpu {
namespace {

// Partial sums that one vector instruction can hold.
constexpr std::int64_t kLanes = 16;

// One vector, by the compiler's vector types: they exist wherever it does.
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));
using Words = std::uint32_t
    __attribute__((vector_size(kLanes * sizeof(std::uint32_t)), aligned(2), may_alias));

// Numbers that multiply_step takes at a time: a vector's.
template <typename T>
constexpr std::int64_t kStep = kLanes* static_cast<std::int64_t>(sizeof(float) / sizeof(T));

template <typename Term>
float sum_of(std::int64_t size, const Term& term) {
  float partial[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) partial[lane] += term(i + lane);
  }
  float sum = 0;
  for (; i < size; ++i) sum += term(i);
  for (const float value : partial) sum += value;
  return sum;
}

// e^x to 2e-7 (relative), 0 and inf beyond fp32's range up to a factor of two; NaN stays NaN.
// 2^(n + f) with n the nearest integer, f in [-0.5, 0.5]: the exponent is put in place as
// bits, 2^f is Taylor's series of e^(f ln 2).
inline float exp_fast(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  constexpr float kLog2e = 1.44269504f, kRound = 12582912.0f;  // 1.5 * 2^23
  const float shifted = x * kLog2e + kRound;                   // n in its lowest bits
  const float n = shifted - kRound;
  // ln 2 in two parts, so that f ln 2 keeps its digits.
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float series = 1.0f / 5040;
  series = series * r + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  const std::uint32_t exponent = (std::bit_cast<std::uint32_t>(shifted) << 23) + (127u << 23);
  return series * std::bit_cast<float>(exponent);
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exp_fast(-x)); }

template <typename T>
float inverse_rms(const T* x, float eps, std::int64_t size) {
  const float squares = sum_of(size, [&](std::int64_t i) { return widen(x[i]) * widen(x[i]); });
  return 1.0f / std::sqrt(squares / static_cast<float>(size) + eps);
}

template <typename T>
void rms_norm_row(const T* x, const T* weight, float eps, std::int64_t size, T* __restrict out) {
  const float scale = inverse_rms(x, eps, size);
  for (std::int64_t i = 0; i < size; ++i) {
    out[i] = narrow<T>(widen(x[i]) * scale * widen(weight[i]));
  }
}

// With r the inverse rms and g = d_out * weight: d_x = r g - x r^3 mean(g x).
template <typename T>
void rms_norm_backward_row(const T* d_out, const T* x, const T* weight, float eps,
                           std::int64_t size, T* __restrict d_x) {
  const float scale = inverse_rms(x, eps, size);
  const float dot = sum_of(
      size, [&](std::int64_t i) { return widen(d_out[i]) * widen(weight[i]) * widen(x[i]); });
  const float along = scale * scale * scale * dot / static_cast<float>(size);
  for (std::int64_t i = 0; i < size; ++i) {
    d_x[i] = narrow<T>(scale * widen(d_out[i]) * widen(weight[i]) - along * widen(x[i]));
  }
}

template <typename T>
void swiglu_row(const T* gate, const T* up, std::int64_t size, T* __restrict out) {
  for (std::int64_t i = 0; i < size; ++i) {
    const float g = widen(gate[i]);
    out[i] = narrow<T>(g * sigmoid(g) * widen(up[i]));
  }
}

template <typename T>
void swiglu_backward_row(const T* d_out, const T* gate, const T* up, std::int64_t size,
                         T* __restrict d_gate, T* __restrict d_up) {
  for (std::int64_t i = 0; i < size; ++i) {
    const float g = widen(gate[i]), s = sigmoid(g), d = widen(d_out[i]);
    d_gate[i] = narrow<T>(d * widen(up[i]) * s * (1.0f + g * (1.0f - s)));
    d_up[i] = narrow<T>(d * g * s);
  }
}

template <typename T>
void rotate_row(const RotateRow& row) {
  const T* x = static_cast<const T*>(row.x);
  T* __restrict out = static_cast<T*>(row.out);
  for (std::int64_t i = 0; i < row.prefix; ++i) out[i] = x[i];
  x += row.prefix;
  out += row.prefix;
  // Element i of the first and of the second half of the pairs.
  const std::int64_t step = row.interleaved ? 2 : 1, other = row.interleaved ? 1 : row.half;
  const auto turn = [&](std::int64_t i, std::int64_t first, std::int64_t second) {
    const float a = widen(x[first]), b = widen(x[second]);
    const float cos = row.cos[i], sin = row.sin[i] * row.sin_sign;
    out[first] = narrow<T>(a * cos - b * sin);
    out[second] = narrow<T>(b * cos + a * sin);
  };
  if (step == 1) {
    for (std::int64_t i = 0; i < row.half; ++i) turn(i, i, i + other);
  } else {
    for (std::int64_t i = 0; i < row.half; ++i) turn(i, 2 * i, 2 * i + 1);
  }
}

// Whole steps of a bf16 row hold the numbers of even places first, then those of odd ones: so a
// vector of pairs widens by a shift and a mask.
inline void arrange_row(const float* x, std::int64_t size, float* __restrict wide) {
  for (std::int64_t i = 0; i < size; ++i) wide[i] = x[i];
}
inline void arrange_row(const std::uint16_t* x, std::int64_t size, float* __restrict wide) {
  constexpr std::int64_t kPairs = kStep<std::uint16_t>;
  std::int64_t k = 0;
  for (; k + kPairs <= size; k += kPairs) {
    for (std::int64_t i = 0; i < kLanes; ++i) {
      wide[k + i] = widen(x[k + 2 * i]);
      wide[k + kLanes + i] = widen(x[k + 2 * i + 1]);
    }
  }
  for (; k < size; ++k) wide[k] = widen(x[k]);
}

inline Lanes load_lanes(const float* from) { return *reinterpret_cast<const Lanes*>(from); }
inline Lanes& lanes_at(float* to) { return *reinterpret_cast<Lanes*>(to); }

// Sums that a step adds to.
template <typename T>
constexpr int kSumsOfStep = static_cast<int>(kStep<T> / kLanes);

// sums += w * x for a step, x arranged.
inline void multiply_step(const float* w, const float* x, Lanes* sums) {
  sums[0] += load_lanes(w) * load_lanes(x);
}
inline void multiply_step(const std::uint16_t* w, const float* x, Lanes* sums) {
  const Words pairs = *reinterpret_cast<const Words*>(w);
  sums[0] += std::bit_cast<Lanes>(pairs << 16) * load_lanes(x);
  sums[1] += std::bit_cast<Lanes>(pairs & 0xFFFF0000u) * load_lanes(x + kLanes);
}

inline float sum_of_lanes(Lanes lanes) {
  float sums[kLanes];
  __builtin_memcpy(sums, &lanes, sizeof(sums));
#pragma GCC unroll 4
  for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::int64_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

// Dot products of one weight row with kCount rows of x, in one order whatever kCount is. A weight
// is read row after row: a processor reads one long stretch of memory at twice the speed of four
// short ones beside each other.
template <int kCount, typename T>
void dot_row(const WideRows& x, std::int64_t first, const T* w, float* dots) {
  constexpr int kSums = 4, kSteps = kSums / kSumsOfStep<T>;
  constexpr std::int64_t kAhead = 4096 / sizeof(T);  // numbers that are asked for in advance
  const float* const rows = x.data + first * x.size;
  Lanes sums[kCount][kSums] = {};
  const auto meet = [&](std::int64_t k, int step) {
#pragma GCC unroll 4
    for (int m = 0; m < kCount; ++m) {
      multiply_step(w + k, rows + m * x.size + k, sums[m] + step * kSumsOfStep<T>);
    }
  };
  std::int64_t k = 0;
  for (; k + kSteps * kStep<T> <= x.size; k += kSteps * kStep<T>) {
#pragma GCC unroll 4
    for (int step = 0; step < kSteps; ++step) {
      __builtin_prefetch(w + k + step * kStep<T> + kAhead);
      meet(k + step * kStep<T>, step);
    }
  }
  for (; k + kStep<T> <= x.size; k += kStep<T>) meet(k, 0);
  for (int m = 0; m < kCount; ++m) {
    float sum = sum_of_lanes((sums[m][0] + sums[m][1]) + (sums[m][2] + sums[m][3]));
    for (std::int64_t i = k; i < x.size; ++i) sum += widen(w[i]) * rows[m * x.size + i];
    dots[m] = sum;
  }
}

// With all rows of x, at most kFewRows; the weight row stays in the first cache meanwhile.
template <typename T>
void dot_rows(const WideRows& x, const T* w, float* dots) {
  std::int64_t first = 0;
  for (; first + 4 <= x.count; first += 4) dot_row<4>(x, first, w, dots + first);
  switch (x.count - first) {
    case 1:
      return dot_row<1>(x, first, w, dots + first);
    case 2:
      return dot_row<2>(x, first, w, dots + first);
    case 3:
      return dot_row<3>(x, first, w, dots + first);
    default:
      return;
  }
}

template <typename T, typename Out>
void multiply_rows(const WideRows& x, const T* weight, std::int64_t stride, std::int64_t begin,
                   std::int64_t end, const ProductOut& out) {
  const auto* residual = static_cast<const Out*>(out.residual);
  for (std::int64_t n = begin; n < end; ++n) {
    float dots[kFewRows];
    dot_rows(x, weight + (n - begin) * stride, dots);
    for (std::int64_t m = 0; m < x.count; ++m) {
      float value = dots[m];
      if (out.bias != nullptr) value += out.bias[n];
      if (residual != nullptr) value += widen(residual[m * out.residual_stride + n]);
      static_cast<Out*>(out.data)[m * out.stride + n] = narrow<Out>(value);
    }
  }
}

// sums += factor * w, a row of a weight; sums are arranged.
template <typename T>
void add_row(float factor, const T* w, std::int64_t size, float* __restrict sums) {
  std::int64_t i = 0;
  for (; i + kStep<T> <= size; i += kStep<T>) {
    if constexpr (kSumsOfStep<T> == 1) {
      lanes_at(sums + i) += load_lanes(w + i) * factor;
    } else {
      const Words pairs = *reinterpret_cast<const Words*>(w + i);
      lanes_at(sums + i) += std::bit_cast<Lanes>(pairs << 16) * factor;
      lanes_at(sums + i + kLanes) += std::bit_cast<Lanes>(pairs & 0xFFFF0000u) * factor;
    }
  }
  for (; i < size; ++i) sums[i] += widen(w[i]) * factor;
}

// The inverse of arrange_row, rounded.
inline void store_arranged(const float* sums, std::int64_t size, float* __restrict out) {
  for (std::int64_t i = 0; i < size; ++i) out[i] = sums[i];
}
inline void store_arranged(const float* sums, std::int64_t size, std::uint16_t* __restrict out) {
  constexpr std::int64_t kPairs = kStep<std::uint16_t>;
  std::int64_t n = 0;
  for (; n + kPairs <= size; n += kPairs) {
    for (std::int64_t i = 0; i < kLanes; ++i) {
      out[n + 2 * i] = narrow<std::uint16_t>(sums[n + i]);
      out[n + 2 * i + 1] = narrow<std::uint16_t>(sums[n + kLanes + i]);
    }
  }
  for (; n < size; ++n) out[n] = narrow<std::uint16_t>(sums[n]);
}

template <typename T>
void multiply_columns(const ColumnsProduct& product, float* sums) {
  const auto* x = static_cast<const T*>(product.x);
  const auto* weight = static_cast<const T*>(product.weight);
  const std::int64_t size = product.num_columns;
  for (std::int64_t i = 0; i < product.count * size; ++i) sums[i] = 0;
  for (std::int64_t k = 0; k < product.size; ++k) {
    for (std::int64_t m = 0; m < product.count; ++m) {
      add_row(widen(x[m * product.x_stride + k]), weight + k * product.weight_stride, size,
              sums + m * size);
    }
  }
  for (std::int64_t m = 0; m < product.count; ++m) {
    store_arranged(sums + m * size, size, static_cast<T*>(product.out) + m * product.out_stride);
  }
}

constexpr RowKernels kRowKernels{
    .rms_norm =
        [](const void* x, const void* weight, float eps, std::int64_t size, DType dtype,
           void* out) {
          with_type(dtype, [&]<typename T>(T*) {
            rms_norm_row(static_cast<const T*>(x), static_cast<const T*>(weight), eps, size,
                         static_cast<T*>(out));
          });
        },
    .rms_norm_backward =
        [](const void* d_out, const void* x, const void* weight, float eps, std::int64_t size,
           DType dtype, void* d_x) {
          with_type(dtype, [&]<typename T>(T*) {
            rms_norm_backward_row(static_cast<const T*>(d_out), static_cast<const T*>(x),
                                  static_cast<const T*>(weight), eps, size, static_cast<T*>(d_x));
          });
        },
    .swiglu =
        [](const void* gate, const void* up, std::int64_t size, DType dtype, void* out) {
          with_type(dtype, [&]<typename T>(T*) {
            swiglu_row(static_cast<const T*>(gate), static_cast<const T*>(up), size,
                       static_cast<T*>(out));
          });
        },
    .swiglu_backward =
        [](const void* d_out, const void* gate, const void* up, std::int64_t size, DType dtype,
           void* d_gate, void* d_up) {
          with_type(dtype, [&]<typename T>(T*) {
            swiglu_backward_row(static_cast<const T*>(d_out), static_cast<const T*>(gate),
                                static_cast<const T*>(up), size, static_cast<T*>(d_gate),
                                static_cast<T*>(d_up));
          });
        },
    .rotate = [](const RotateRow& row,
                 DType dtype) { with_type(dtype, [&]<typename T>(T*) { rotate_row<T>(row); }); },
    .arrange =
        [](const void* x, std::int64_t size, DType dtype, float* wide) {
          with_type(dtype,
                    [&]<typename T>(T*) { arrange_row(static_cast<const T*>(x), size, wide); });
        },
    .multiply_rows =
        [](const WideRows& x, const void* weight, std::int64_t stride, DType dtype,
           std::int64_t begin, std::int64_t end, const ProductOut& out) {
          with_type(dtype, [&]<typename T>(T*) {
            with_type(out.dtype, [&]<typename Out>(Out*) {
              multiply_rows<T, Out>(x, static_cast<const T*>(weight), stride, begin, end, out);
            });
          });
        },
    .multiply_columns =
        [](const ColumnsProduct& product, DType dtype, float* sums) {
          with_type(dtype, [&]<typename T>(T*) { multiply_columns<T>(product, sums); });
        },
};

}  // namespace
}  // namespace loza::model_cpu
