#ifdef __x86_64__

#include <immintrin.h>

#include <cstdint>

namespace loza::model_cpu {
namespace {

struct Ints {
  __m256i low, high;
};
struct Floats {
  __m256 low, high;
};

constexpr bool kShifted = false;

inline Ints broadcast(std::int32_t value) {
  return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)};
}
// Pairs of bytes add up to int16, saturated: |w| * (x with w's sign) keeps them below 2 * 127^2.
inline __m256i dot4_of_half(__m256i sum, const std::uint8_t* w, __m256i x) {
  const __m256i shifted = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
  const __m256i integers = _mm256_xor_si256(shifted, _mm256_set1_epi8(-128));
  const __m256i pairs =
      _mm256_maddubs_epi16(_mm256_abs_epi8(integers), _mm256_sign_epi8(x, integers));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline Ints dot4(Ints sum, const std::uint8_t* w, std::int32_t x4) {
  const __m256i x = _mm256_set1_epi32(x4);
  return {dot4_of_half(sum.low, w, x), dot4_of_half(sum.high, w + 32, x)};
}
inline Floats zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline __m256 widen_half(const std::uint16_t* bf16) {
  const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bf16));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16));
}
inline Floats widen_scales(const std::uint16_t* bf16) {
  return {widen_half(bf16), widen_half(bf16 + 8)};
}
inline Floats add_scaled(Floats sum, Ints product, Floats w_scale, float x_scale) {
  const __m256 x = _mm256_set1_ps(x_scale);
  return {
      _mm256_fmadd_ps(_mm256_cvtepi32_ps(product.low), _mm256_mul_ps(w_scale.low, x), sum.low),
      _mm256_fmadd_ps(_mm256_cvtepi32_ps(product.high), _mm256_mul_ps(w_scale.high, x), sum.high)};
}
inline void store(float* out, Floats values) {
  _mm256_storeu_ps(out, values.low);
  _mm256_storeu_ps(out + 8, values.high);
}

}  // namespace
}  // namespace loza::model_cpu

#include "loza/model/cpu/int8_loops.h"

namespace loza::model_cpu {

const Int8Kernels& avx2_int8_kernels() { return kInt8Kernels; }

}  // namespace loza::model_cpu

#endif  // __x86_64__
