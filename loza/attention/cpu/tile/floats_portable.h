#pragma once

#include <cstdint>
#include <cstring>

#include "loza/attention/cpu/tile.h"
#include "loza/attention/cpu/tile/exp2.h"

// Floats (see floats_avx512.h) as an array, for any processor.
namespace loza::cpu {
namespace {

struct Floats {
  float lane[kLanes];
};

constexpr int kRegisterRows = 2, kRegisterVectors = 1;

// Applies `f` lane by lane.
template <typename F, typename... Inputs>
inline Floats by_lane(const F& f, const Inputs&... x) {
  Floats result;
  for (int i = 0; i < kLanes; ++i) result.lane[i] = f(x.lane[i]...);
  return result;
}

inline Floats broadcast(float x) {
  Floats result;
  for (float& lane : result.lane) lane = x;
  return result;
}
inline Floats zeros() { return broadcast(0.0f); }
inline Floats load(const float* from) {
  Floats result;
  std::memcpy(result.lane, from, sizeof result.lane);
  return result;
}
inline void store(const Floats& x, float* to) { std::memcpy(to, x.lane, sizeof x.lane); }

inline Floats operator+(const Floats& a, const Floats& b) {
  return by_lane([](float x, float y) { return x + y; }, a, b);
}
inline Floats operator-(const Floats& a, const Floats& b) {
  return by_lane([](float x, float y) { return x - y; }, a, b);
}
inline Floats operator*(const Floats& a, const Floats& b) {
  return by_lane([](float x, float y) { return x * y; }, a, b);
}
inline Floats multiply_add(const Floats& a, const Floats& b, const Floats& c) {
  return by_lane([](float x, float y, float z) { return x * y + z; }, a, b, c);
}
inline Floats multiply_subtract(const Floats& a, const Floats& b, const Floats& c) {
  return by_lane([](float x, float y, float z) { return x * y - z; }, a, b, c);
}
inline Floats max(const Floats& a, const Floats& b) {
  return by_lane([](float x, float y) { return x > y ? x : y; }, a, b);
}

inline Floats keep_lanes(const Floats& x, std::int64_t begin, std::int64_t end,
                         const Floats& otherwise) {
  Floats result;
  for (int i = 0; i < kLanes; ++i) {
    result.lane[i] = i >= begin && i < end ? x.lane[i] : otherwise.lane[i];
  }
  return result;
}

inline float max_of_lanes(const Floats& x) {
  float result = x.lane[0];
  for (int i = 1; i < kLanes; ++i) result = x.lane[i] > result ? x.lane[i] : result;
  return result;
}
inline float sum_of_lanes(const Floats& x) {
  float result = x.lane[0];
  for (int i = 1; i < kLanes; ++i) result += x.lane[i];
  return result;
}

inline float exp2_of_lane(float x) {
  // Below 2^-126 the result is 0; a NaN goes through.
  const float bounded = x < -126.0f ? -126.0f : x;
  const float shifted = bounded > 1000.0f ? 1127.0f : bounded + 127.0f;  // positive: truncates down
  const auto biased = static_cast<std::int32_t>(shifted == shifted ? shifted : 127.0f);
  const float f = bounded - static_cast<float>(biased - 127);
  float p = kExp2Coefficients[5];
  for (int i = 4; i >= 0; --i) p = p * f + kExp2Coefficients[i];
  const std::uint32_t bits = static_cast<std::uint32_t>(biased < 255 ? biased : 255) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -126.0f ? 0.0f : p * power;
}
inline Floats exp2(const Floats& x) {
  return by_lane([](float lane) { return exp2_of_lane(lane); }, x);
}

inline Floats load_bf16(const std::uint16_t* from) {
  Floats result;
  for (int i = 0; i < kLanes; ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(from[i]) << 16;
    std::memcpy(&result.lane[i], &bits, sizeof bits);
  }
  return result;
}
inline void store_bf16(const Floats& x, std::uint16_t* to) {
  for (int i = 0; i < kLanes; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, &x.lane[i], sizeof bits);
    const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
    const std::uint32_t rounded = is_nan ? bits | 0x400000u : bits + 0x7FFFu + ((bits >> 16) & 1u);
    to[i] = static_cast<std::uint16_t>(rounded >> 16);
  }
}

inline void transpose(Floats (&rows)[kLanes]) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const float lane = rows[i].lane[j];
      rows[i].lane[j] = rows[j].lane[i];
      rows[j].lane[i] = lane;
    }
  }
}

}  // namespace
}  // namespace loza::cpu
