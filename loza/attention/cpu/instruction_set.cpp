#include "loza/attention/cpu/instruction_set.h"

#include <algorithm>
#include <atomic>

#include "loza/base/check.h"

namespace loza::cpu {
namespace {

std::atomic<InstructionSet>& current() {
  static std::atomic<InstructionSet> set{supported_instruction_sets().back()};
  return set;
}

}  // namespace

const char* instruction_set_name(InstructionSet set) {
  switch (set) {
    case InstructionSet::kPortable:
      return "portable";
    case InstructionSet::kAvx2:
      return "avx2";
    case InstructionSet::kAvx512:
      return "avx512";
    case InstructionSet::kAvx512Bf16:
      return "avx512-bf16";
  }
  return "?";
}

std::vector<InstructionSet> supported_instruction_sets() {
  std::vector<InstructionSet> sets{InstructionSet::kPortable};
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    sets.push_back(InstructionSet::kAvx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      sets.push_back(InstructionSet::kAvx512);
      if (__builtin_cpu_supports("avx512bf16")) sets.push_back(InstructionSet::kAvx512Bf16);
    }
  }
#endif
  return sets;
}

InstructionSet instruction_set() { return current(); }

void set_instruction_set(InstructionSet set) {
  const auto supported = supported_instruction_sets();
  LOZA_CHECK(std::find(supported.begin(), supported.end(), set) != supported.end(),
             instruction_set_name(set));
  current() = set;
}

}  // namespace loza::cpu
