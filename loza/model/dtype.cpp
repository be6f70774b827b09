#include <fmt/format.h>
#include <torch/torch.h>

#include <charconv>

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

at::ScalarType auto_dtype(at::Device device) {
  return !device.is_cpu() || has_bf16_dot_products() ? at::kBFloat16 : at::kFloat;
}

at::ScalarType parse_dtype(const std::string& text, at::Device device) {
  if (text == "auto") return auto_dtype(device);
  if (text == "fp32") return at::kFloat;
  if (text == "bf16") return at::kBFloat16;
  throw_usage("--dtype", "fp32, bf16 or auto", text);
}

at::Device parse_device(const std::string& text) {
  const std::string expected = "cpu, cuda or cuda:N";
  if (text == "cpu") return at::kCPU;
  std::int64_t index = 0;
  if (text != "cuda") {
    const std::string prefix = "cuda:";
    if (text.compare(0, prefix.size(), prefix) != 0) throw_usage("--device", expected, text);
    const char* const last = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data() + prefix.size(), last, index);
    if (error != std::errc() || rest != last || index < 0) throw_usage("--device", expected, text);
  }
  const auto count = static_cast<std::int64_t>(torch::cuda::device_count());
  if (index >= count) {
    throw_usage("--device", fmt::format("one of {} CUDA devices", count), text,
                count > 0 ? "" : "is there a GPU, and was loza built with --preset cuda-release?");
  }
  return {at::kCUDA, static_cast<c10::DeviceIndex>(index)};
}

}  // namespace loza
