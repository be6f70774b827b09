#include "loza/base/error.h"
#include "loza/model/transformer.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace loza {
namespace {

// Whether the processor multiplies bf16 pairs in one instruction (AVX512-BF16 or AMX-BF16 on
// x86, BF16 on ARM) and the system lets programs use its registers.
bool has_bf16_dot_products() {
#if defined(__x86_64__)
  unsigned eax, ebx, ecx, edx;
  const bool avx512_on = __builtin_cpu_supports("avx512f");  // asks the system, too
  const bool avx512_bf16 = __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & 1u << 5);
  const bool amx_bf16 = __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & 1u << 22);
  return avx512_on && (avx512_bf16 || amx_bf16);
#elif defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kHwcap2Bf16 = 1ul << 14;
  return (getauxval(AT_HWCAP2) & kHwcap2Bf16) != 0;
#else
  return false;
#endif
}

}  // namespace

at::ScalarType auto_dtype() { return has_bf16_dot_products() ? at::kBFloat16 : at::kFloat; }

at::ScalarType parse_dtype(const std::string& text) {
  if (text == "auto") return auto_dtype();
  if (text == "fp32") return at::kFloat;
  if (text == "bf16") return at::kBFloat16;
  throw_usage("--dtype", "fp32, bf16 or auto", text);
}

}  // namespace loza
