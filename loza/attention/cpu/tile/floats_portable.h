#pragma once

#include <cstdint>
#include <cstring>

#include "loza/attention/cpu/tile.h"
#include "loza/attention/cpu/tile/exp2.h"

// Floats (see floats_avx512.h) as four of the compiler's own vectors, for any processor.
namespace loza::cpu {
namespace {

typedef float Quad __attribute__((vector_size(16)));
typedef std::int32_t IntQuad __attribute__((vector_size(16)));
// A quad in memory. (Were a whole Floats copied from there, the compiler would keep it in memory.)
typedef float QuadInMemory __attribute__((vector_size(16), aligned(4), may_alias));

struct Floats {
  Quad quads[4];
};

constexpr int kRegisterRows = 2, kRegisterVectors = 1;

constexpr int kDotRows = 2, kDotSums = 2, kValueRows = 2, kValueVectors = 1;

// Applies `f` to each quad.
template <typename F, typename... Inputs>
inline Floats by_quad(const F& f, const Inputs&... x) {
  return {{f(x.quads[0]...), f(x.quads[1]...), f(x.quads[2]...), f(x.quads[3]...)}};
}

inline Floats broadcast(float x) {
  const Quad quad{x, x, x, x};
  return {{quad, quad, quad, quad}};
}
inline Floats zeros() { return broadcast(0.0f); }
inline Floats load(const float* from) {
  const auto quad = [from](int i) -> Quad {
    return *reinterpret_cast<const QuadInMemory*>(from + 4 * i);
  };
  return {{quad(0), quad(1), quad(2), quad(3)}};
}
inline Floats in_register(Floats x) {
#ifdef __x86_64__  // elsewhere products take registers only
  asm("" : "+x"(x.quads[0]), "+x"(x.quads[1]), "+x"(x.quads[2]), "+x"(x.quads[3]));
#endif
  return x;
}
inline void store(const Floats& x, float* to) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) *reinterpret_cast<QuadInMemory*>(to + 4 * i) = x.quads[i];
}

inline Floats operator+(const Floats& a, const Floats& b) {
  return by_quad([](Quad x, Quad y) { return x + y; }, a, b);
}
inline Floats operator-(const Floats& a, const Floats& b) {
  return by_quad([](Quad x, Quad y) { return x - y; }, a, b);
}
inline Floats operator*(const Floats& a, const Floats& b) {
  return by_quad([](Quad x, Quad y) { return x * y; }, a, b);
}
inline Floats multiply_add(const Floats& a, const Floats& b, const Floats& c) {
  return by_quad([](Quad x, Quad y, Quad z) { return x * y + z; }, a, b, c);
}
inline Floats multiply_subtract(const Floats& a, const Floats& b, const Floats& c) {
  return by_quad([](Quad x, Quad y, Quad z) { return x * y - z; }, a, b, c);
}
inline Floats max(const Floats& a, const Floats& b) {
  return by_quad([](Quad x, Quad y) { return x > y ? x : y; }, a, b);
}

inline Floats keep_lanes(const Floats& x, std::int64_t begin, std::int64_t end,
                         const Floats& otherwise) {
  float lanes[kLanes], others[kLanes];
  store(x, lanes);
  store(otherwise, others);
  for (int i = 0; i < kLanes; ++i) lanes[i] = i >= begin && i < end ? lanes[i] : others[i];
  return load(lanes);
}

inline float max_of_lanes(const Floats& x) {
  float lanes[kLanes];
  store(x, lanes);
  float result = lanes[0];
  for (const float lane : lanes) result = lane > result ? lane : result;
  return result;
}
inline float sum_of_lanes(const Floats& x) {
  const Quad quad = (x.quads[0] + x.quads[1]) + (x.quads[2] + x.quads[3]);
  return (quad[0] + quad[1]) + (quad[2] + quad[3]);
}
template <int count>
[[gnu::always_inline]] inline void sums_of_lanes(const Floats (&x)[count], float* to) {
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) to[i] = sum_of_lanes(x[i]);
}

inline Quad exp2_of_quad(Quad x) {
  // Below 2^-126 the result is 0; beyond 2^127 the weights are meaningless; a NaN goes through.
  const Quad smallest = Quad{} - 126.0f, largest = Quad{} + 127.0f;
  const Quad bounded = x < smallest ? smallest : x > largest ? largest : x;
  // Positive, so that the conversion rounds down.
  const IntQuad biased = __builtin_convertvector(x == x ? bounded + 127.0f : largest, IntQuad);
  const Quad f = bounded - __builtin_convertvector(biased - 127, Quad);
  Quad p = Quad{} + kExp2Coefficients[5];
#pragma GCC unroll 5
  for (int i = 4; i >= 0; --i) p = p * f + kExp2Coefficients[i];
  const auto power = reinterpret_cast<Quad>(biased << 23);
  return x < smallest ? Quad{} : p * power;
}
inline Floats exp2(const Floats& x) { return by_quad(exp2_of_quad, x); }

inline Floats load_bf16(const std::uint16_t* from) {
  std::uint32_t bits[kLanes];
  for (int i = 0; i < kLanes; ++i) bits[i] = static_cast<std::uint32_t>(from[i]) << 16;
  Floats result;
  std::memcpy(&result, bits, sizeof result);
  return result;
}
inline void store_bf16(const Floats& x, std::uint16_t* to) {
  std::uint32_t bits[kLanes];
  std::memcpy(bits, &x, sizeof bits);
  for (int i = 0; i < kLanes; ++i) {
    const bool is_nan = (bits[i] & 0x7FFFFFFFu) > 0x7F800000u;
    const std::uint32_t rounded =
        is_nan ? bits[i] | 0x400000u : bits[i] + 0x7FFFu + ((bits[i] >> 16) & 1u);
    to[i] = static_cast<std::uint16_t>(rounded >> 16);
  }
}

inline void transpose(Floats (&rows)[kLanes]) {
  float from[kLanes][kLanes], to[kLanes][kLanes];
  std::memcpy(from, rows, sizeof from);
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < kLanes; ++j) to[j][i] = from[i][j];
  }
  std::memcpy(rows, to, sizeof to);
}

}  // namespace
}  // namespace loza::cpu
