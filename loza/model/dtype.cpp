#include "loza/base/error.h"
#include "loza/model/transformer.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace loza {
namespace {

// Whether the processor multiplies bf16 pairs in one instruction: AVX512-BF16 on x86 (every
// processor with AMX-BF16 has it, too), BF16 on ARM.
bool has_bf16_dot_products() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16");
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
