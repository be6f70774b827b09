#include "loza/model/cpu/int8_weight.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "loza/base/parallel_for.h"
#include "tests/model/kernels/product_fixture.h"

namespace loza::model_cpu {
namespace {

using testing::bf16_to_float, testing::kNan, testing::Matrix, testing::ProductsOf, testing::Shape;

// What a row's number becomes as the header says, slow and in fp64, and by how much it may be
// off: a step where it stands on the edge between two integers, where fp32 decides.
struct Quantised {
  double value = 0, slack = 0;
};

std::vector<Quantised> quantised(const Matrix& x, std::int64_t num_terms) {
  std::vector<Quantised> numbers;
  for (std::int64_t m = 0; m < x.rows; ++m) {
    for (std::int64_t k = 0; k < x.size; ++k) {
      const std::int64_t begin = k / kGroup * kGroup, end = std::min(x.size, begin + kGroup);
      double largest = 0;
      for (std::int64_t i = begin; i < end; ++i) {
        largest = std::max(largest, std::fabs(static_cast<double>(x(m, i))));
      }
      const double step = largest / 127;
      const double quotient = step > 0 ? x(m, k) / step : 0;
      const bool is_edge = std::fabs(std::fabs(quotient - std::floor(quotient)) - 0.5) < 1e-4;
      // A second term keeps the rest up to half a step of its own.
      numbers.push_back(num_terms == 1
                            ? Quantised{std::nearbyint(quotient) * step, is_edge ? step : 0}
                            : Quantised{x(m, k), step / 127 / 2});
    }
  }
  return numbers;
}

class Int8WeightOf : public ProductsOf {};
INSTANTIATE_TEST_SUITE_P(Sets, Int8WeightOf, ::testing::ValuesIn(cpu::supported_instruction_sets()),
                         testing::set_name);

std::vector<float> product(const Matrix& x, const Int8Weight& weight, std::int64_t num_terms,
                           DType dtype = DType::kF32) {
  std::vector<float> out(static_cast<std::size_t>(x.rows * weight.num_outputs()) + 1, 12345.0f);
  weight.multiply(x.view(dtype), num_terms, {out.data(), weight.num_outputs(), DType::kF32});
  EXPECT_EQ(out.back(), 12345.0f);  // nothing is written behind the end
  out.pop_back();
  return out;
}

TEST_P(Int8WeightOf, EqualsASlowProductOfTheQuantisedNumbers) {
  for (const Shape& shape : testing::product_shapes()) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const std::int64_t num_terms : {1, 2}) {
        const Matrix x(shape.rows, shape.size, 1, 3), w(shape.outputs, shape.size, 2);
        HugePageArena memory;
        const Int8Weight weight(w.view(dtype), memory);
        const std::vector<float> out = product(x, weight, num_terms, dtype);
        const std::vector<Quantised> numbers = quantised(x, num_terms);
        std::vector<float> row(static_cast<std::size_t>(shape.size));
        for (std::int64_t n = 0; n < shape.outputs; ++n) {
          weight.dequantize_row(n, row.data());
          for (std::int64_t m = 0; m < shape.rows; ++m) {
            double sum = 0, magnitude = 0, slack = 0;
            for (std::int64_t k = 0; k < shape.size; ++k) {
              const Quantised& number = numbers[static_cast<std::size_t>(m * shape.size + k)];
              const double weight_of_k = row[static_cast<std::size_t>(k)];
              sum += number.value * weight_of_k;
              magnitude += std::fabs(number.value * weight_of_k);
              slack += number.slack * std::fabs(weight_of_k);
            }
            EXPECT_NEAR(out[static_cast<std::size_t>(m * shape.outputs + n)], sum,
                        2e-6 * magnitude + slack + 1e-12)
                << m << " " << n << " of " << shape.rows << "x" << shape.outputs << "x"
                << shape.size << ", terms " << num_terms;
          }
        }
      }
    }
  }
}

TEST_P(Int8WeightOf, AWeightKeepsSevenBitsOfItsGroup) {
  Matrix w(5, 100, 3, 2);
  for (std::int64_t k = 32; k < 64; ++k) w.set(2, k, 0);  // a group whose scale is zero
  w.set(3, 0, 1e-38f);
  HugePageArena memory;
  const Int8Weight weight(w.view(DType::kF32), memory);
  std::vector<float> row(100);
  for (std::int64_t n = 0; n < w.rows; ++n) {
    weight.dequantize_row(n, row.data());
    for (std::int64_t k = 0; k < w.size; ++k) {
      const std::int64_t begin = k / kGroup * kGroup, end = std::min(w.size, begin + kGroup);
      float largest = 0;
      for (std::int64_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(w(n, i)));
      // Half a step, and bf16's rounding of the scale for the largest numbers.
      EXPECT_NEAR(row[static_cast<std::size_t>(k)], w(n, k), largest / 127 * 1.1) << n << " " << k;
    }
  }
}

TEST_P(Int8WeightOf, TwoTermsAreAsGoodAsFifteenBits) {
  const Matrix x(4, 576, 5, 7), w(50, 576, 6);
  HugePageArena memory;
  const Int8Weight weight(w.view(DType::kBF16), memory);
  const std::vector<float> one = product(x, weight, 1), two = product(x, weight, 2);
  double error_of_one = 0, error_of_two = 0;
  std::vector<float> row(576);
  for (std::int64_t n = 0; n < w.rows; ++n) {
    weight.dequantize_row(n, row.data());
    for (std::int64_t m = 0; m < x.rows; ++m) {
      double exact = 0;
      for (std::int64_t k = 0; k < x.size; ++k) {
        exact += static_cast<double>(x(m, k)) * row[static_cast<std::size_t>(k)];
      }
      const auto at = static_cast<std::size_t>(m * w.rows + n);
      error_of_one += std::pow(one[at] - exact, 2);
      error_of_two += std::pow(two[at] - exact, 2);
    }
  }
  EXPECT_GT(error_of_one, 0);
  EXPECT_LT(error_of_two, error_of_one / (100.0 * 100.0));
}

TEST_P(Int8WeightOf, BiasAndResidualAreAdded) {
  const Matrix x(7, 70, 7), w(45, 70, 8), residual(7, 45, 9);
  HugePageArena memory;
  const Int8Weight weight(w.view(DType::kF32), memory);
  const std::vector<float> plain = product(x, weight, 1);
  std::vector<float> bias(45), out = residual.floats;
  for (std::size_t n = 0; n < bias.size(); ++n) bias[n] = static_cast<float>(n);
  weight.multiply(x.view(DType::kF32), 1,
                  {out.data(), 45, DType::kF32, bias.data(), out.data(), 45});
  for (std::size_t i = 0; i < out.size(); ++i) {
    EXPECT_FLOAT_EQ(out[i], plain[i] + bias[i % 45] + residual.floats[i]);
  }
  // In bf16 the sum is rounded once.
  std::vector<std::uint16_t> halves = residual.halves;
  weight.multiply(x.view(DType::kF32), 1,
                  {halves.data(), 45, DType::kBF16, bias.data(), halves.data(), 45});
  for (std::size_t i = 0; i < halves.size(); ++i) {
    EXPECT_NEAR(bf16_to_float(halves[i]), out[i], std::fabs(out[i]) / 256);
  }
}

TEST_P(Int8WeightOf, NumbersThatAreNoneReachTheirRowAlone) {
  for (const float broken : {kNan, std::numeric_limits<float>::infinity()}) {
    Matrix x(9, 80, 10), w(40, 80, 11);
    x.set(4, 70, broken);
    HugePageArena memory;
    std::vector<float> out = product(x, Int8Weight(w.view(DType::kF32), memory), 2);
    for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isnan(out[i]), i / 40 == 4) << i;
    w.set(39, 3, broken);
    x.set(4, 70, 0);
    out = product(x, Int8Weight(w.view(DType::kF32), memory), 1);
    for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isnan(out[i]), i % 40 == 39) << i;
  }
}

TEST_P(Int8WeightOf, NothingToDo) {
  HugePageArena memory;
  const Matrix none(0, 64, 1), w(10, 64, 2);
  EXPECT_TRUE(product(none, Int8Weight(w.view(DType::kF32), memory), 1).empty());
  EXPECT_TRUE(product(Matrix(3, 64, 1), Int8Weight(none.view(DType::kF32), memory), 1).empty());
  // Rows of zeros, and a weight of zeros.
  const Matrix zeros(3, 64, 1, 0), zero_weight(10, 64, 1, 0);
  for (const float value : product(zeros, Int8Weight(w.view(DType::kF32), memory), 2)) {
    EXPECT_EQ(value, 0);
  }
  for (const float value :
       product(Matrix(3, 64, 1), Int8Weight(zero_weight.view(DType::kF32), memory), 1)) {
    EXPECT_EQ(value, 0);
  }
}

TEST_P(Int8WeightOf, BitsDependOnNeitherThreadsNorCompany) {
  const Matrix x(130, 200, 12), w(301, 200, 13);
  HugePageArena memory;
  const Int8Weight weight(w.view(DType::kBF16), memory);
  const std::vector<float> expected = product(x, weight, 2);
  for (const int threads : {2, 7}) {
    set_num_threads(threads);
    EXPECT_EQ(product(x, weight, 2), expected) << threads;
  }
  set_num_threads(1);
  for (const std::int64_t count : {1, 4, 5}) {
    std::vector<float> out(static_cast<std::size_t>(count * 301));
    RowsView some = x.view(DType::kF32);
    some.data = some.row(100);
    some.count = count;
    weight.multiply(some, 2, {out.data(), 301, DType::kF32});
    EXPECT_TRUE(std::equal(out.begin(), out.end(), expected.begin() + 100 * 301)) << count;
  }
}

TEST_P(Int8WeightOf, GroupsOfRowsMeetTheirOwnWeight) {
  const Matrix x(9, 70, 22), w(41, 70, 23), other(41, 70, 24);
  HugePageArena memory;
  const Int8Weight weight(w.view(DType::kF32), memory);
  const Int8Weight another(other.view(DType::kF32), memory);
  std::vector<float> out(9 * 41, kNan), expected(9 * 41, kNan);
  Int8Weight::multiply(x.view(DType::kF32), {{&weight, 2}, {&another, 0}, {&another, 7}}, 1,
                       {out.data(), 41, DType::kF32});
  RowsView rows = x.view(DType::kF32);
  rows.count = 2;
  weight.multiply(rows, 1, {expected.data(), 41, DType::kF32});
  rows.data = rows.row(2);
  rows.count = 7;
  another.multiply(rows, 1, {expected.data() + 2 * 41, 41, DType::kF32});
  EXPECT_EQ(out, expected);
}

}  // namespace
}  // namespace loza::model_cpu
