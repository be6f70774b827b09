#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "loza/attention/cpu/instruction_set.h"
#include "loza/base/parallel_for.h"
#include "loza/base/random.h"
#include "loza/model/cpu/few_rows.h"

// What tests of matrix products share.
namespace loza::model_cpu::testing {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

inline float bf16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

// Numbers that bf16 holds exactly, in either dtype.
struct Matrix {
  std::int64_t rows, size;
  std::vector<std::uint16_t> halves;
  std::vector<float> floats;

  Matrix(std::int64_t rows, std::int64_t size, std::uint64_t seed, float spread = 1)
      : rows(rows), size(size) {
    Random random(seed);
    for (std::int64_t i = 0; i < rows * size; ++i) {
      set_next((static_cast<float>(random.uniform()) * 2 - 1) * spread);
    }
  }
  void set_next(float value) {
    halves.push_back(static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16));
    floats.push_back(bf16_to_float(halves.back()));
  }
  void set(std::int64_t row, std::int64_t column, float value) {
    const auto at = static_cast<std::size_t>(row * size + column);
    halves[at] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
    floats[at] = bf16_to_float(halves[at]);
  }
  float operator()(std::int64_t row, std::int64_t column) const {
    return floats[static_cast<std::size_t>(row * size + column)];
  }
  RowsView view(DType dtype) const {
    const void* data = dtype == DType::kBF16 ? static_cast<const void*>(halves.data())
                                             : static_cast<const void*>(floats.data());
    return {data, rows, size, size, dtype};
  }
};

// Under each instruction set, on one thread.
class ProductsOf : public ::testing::TestWithParam<cpu::InstructionSet> {
 protected:
  void SetUp() override {
    before_ = cpu::instruction_set();
    threads_before_ = num_threads();
    cpu::set_instruction_set(GetParam());
    set_num_threads(1);
  }
  void TearDown() override {
    cpu::set_instruction_set(before_);
    set_num_threads(threads_before_);
  }

 private:
  cpu::InstructionSet before_ = cpu::InstructionSet::kPortable;
  int threads_before_ = 1;
};

inline std::string set_name(const ::testing::TestParamInfo<cpu::InstructionSet>& info) {
  std::string name = cpu::instruction_set_name(info.param);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

struct Shape {
  std::int64_t rows, outputs, size;
};
inline std::vector<Shape> product_shapes() {
  return {{1, 1, 1},   {1, 31, 33},  {2, 32, 32},  {3, 33, 64},  {5, 65, 95},
          {6, 7, 100}, {7, 100, 31}, {8, 64, 576}, {13, 40, 97}, {125, 70, 40}};
}

}  // namespace loza::model_cpu::testing
