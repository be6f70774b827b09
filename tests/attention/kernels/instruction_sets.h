#pragma once

#include <gtest/gtest.h>

#include "loza/attention/cpu/instruction_set.h"

namespace loza::testing {

// Runs the body with each instruction set that this processor has, then returns to the best.
template <typename Body>
void for_each_instruction_set(const Body& body) {
  for (const cpu::InstructionSet set : cpu::supported_instruction_sets()) {
    SCOPED_TRACE(cpu::instruction_set_name(set));
    cpu::set_instruction_set(set);
    body();
  }
}

}  // namespace loza::testing
