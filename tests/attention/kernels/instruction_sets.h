#pragma once

#include <gtest/gtest.h>

#include "loza/attention/cpu/instruction_set.h"
#include "loza/base/parallel_for.h"

namespace loza::testing {

// The many small cases run on one thread: quicker than waiting for a second one, above all on
// a busy machine. Tests of threads set their number themselves.
class OneThread : public ::testing::Environment {
 public:
  void SetUp() override { set_num_threads(1); }
};

inline const ::testing::Environment* const kOneThread =
    ::testing::AddGlobalTestEnvironment(new OneThread);

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
