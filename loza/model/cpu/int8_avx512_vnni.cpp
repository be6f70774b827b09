#ifdef __x86_64__

#include <immintrin.h>

#include <cstdint>

namespace loza::model_cpu {
namespace {

using Ints = __m512i;
using Floats = __m512;

// The instruction multiplies unsigned by signed bytes: the weight's are shifted by 128.
constexpr bool kShifted = true;

inline Ints broadcast(std::int32_t value) { return _mm512_set1_epi32(value); }
inline Ints dot4(Ints sum, const std::uint8_t* w, std::int32_t x4) {
  return _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(w), _mm512_set1_epi32(x4));
}
inline Floats zeros() { return _mm512_setzero_ps(); }
inline Floats widen_scales(const std::uint16_t* bf16) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bf16));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
}
inline Floats add_scaled(Floats sum, Ints product, Floats w_scale, float x_scale) {
  const __m512 scale = _mm512_mul_ps(w_scale, _mm512_set1_ps(x_scale));
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(product), scale, sum);
}
inline void store(float* out, Floats values) { _mm512_storeu_ps(out, values); }

}  // namespace
}  // namespace loza::model_cpu

#include "loza/model/cpu/int8_loops.h"

namespace loza::model_cpu {

const Int8Kernels& avx512_vnni_int8_kernels() { return kInt8Kernels; }

}  // namespace loza::model_cpu

#endif  // __x86_64__
