#include <bit>
#include <cstdint>
#include <cstring>

namespace loza::model_cpu {
namespace {

struct Ints {
  std::int32_t lanes[16];
};
struct Floats {
  float lanes[16];
};

constexpr bool kShifted = false;

inline Ints broadcast(std::int32_t value) {
  Ints ints;
  for (std::int32_t& lane : ints.lanes) lane = value;
  return ints;
}
inline Ints dot4(Ints sum, const std::uint8_t* w, std::int32_t x4) {
  std::int8_t x[4];
  std::memcpy(x, &x4, sizeof(x));
  for (int n = 0; n < 16; ++n) {
    for (int i = 0; i < 4; ++i) sum.lanes[n] += (w[4 * n + i] - 128) * x[i];
  }
  return sum;
}
inline Floats zeros() { return {}; }
inline Floats widen_scales(const std::uint16_t* bf16) {
  Floats scales;
  for (int n = 0; n < 16; ++n) {
    scales.lanes[n] = std::bit_cast<float>(static_cast<std::uint32_t>(bf16[n]) << 16);
  }
  return scales;
}
inline Floats add_scaled(Floats sum, const Ints& product, const Floats& w_scale, float x_scale) {
  for (int n = 0; n < 16; ++n) {
    sum.lanes[n] += static_cast<float>(product.lanes[n]) * (w_scale.lanes[n] * x_scale);
  }
  return sum;
}
inline void store(float* out, const Floats& values) {
  std::memcpy(out, values.lanes, sizeof(values.lanes));
}

}  // namespace
}  // namespace loza::model_cpu

#include "loza/model/cpu/int8_loops.h"

namespace loza::model_cpu {

const Int8Kernels& portable_int8_kernels() { return kInt8Kernels; }

}  // namespace loza::model_cpu
