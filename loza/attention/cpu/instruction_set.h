#pragma once

#include <vector>

// Which instructions the CPU kernels use. The best set that the processor has is chosen at the
// first call.
namespace loza::cpu {

enum class InstructionSet {
  kPortable,    // what every processor of the platform has
  kAvx2,        // AVX2, FMA
  kAvx512,      // AVX-512 F, BW, DQ, VL
  kAvx512Bf16,  // those and AVX-512 BF16: bf16 tensors are multiplied in pairs
};

const char* instruction_set_name(InstructionSet set);

// Those that this processor has, the slowest first.
std::vector<InstructionSet> supported_instruction_sets();

InstructionSet instruction_set();

// Makes later calls use `set`: for tests and benchmarks. Not to be called while kernels run.
// REQUIRES: `set` is supported.
void set_instruction_set(InstructionSet set);

}  // namespace loza::cpu
