#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "loza/base/parallel_for.h"
#include "loza/model/cpu/few_rows.h"
#include "loza/model/cpu/some_rows.h"
#include "tests/model/kernels/product_fixture.h"

// Products of few and of some rows with weights as they lie in memory.
namespace loza::model_cpu {
namespace {

using testing::kNan, testing::Matrix, testing::ProductsOf, testing::Shape;

class RowProductsOf : public ProductsOf {};
INSTANTIATE_TEST_SUITE_P(Sets, RowProductsOf,
                         ::testing::ValuesIn(cpu::supported_instruction_sets()), testing::set_name);

std::vector<float> product_of_few(const Matrix& x, const Matrix& w, DType dtype,
                                  std::int64_t count) {
  std::vector<float> out(static_cast<std::size_t>(count * w.rows), kNan);
  RowsView rows = x.view(dtype);
  rows.count = count;
  multiply_few_rows(rows, w.view(dtype), {out.data(), w.rows, DType::kF32});
  return out;
}

void expect_slow_product(const Matrix& x, const Matrix& w, const std::vector<float>& out) {
  for (std::int64_t m = 0; m < x.rows; ++m) {
    for (std::int64_t n = 0; n < w.rows; ++n) {
      double sum = 0, magnitude = 0;
      for (std::int64_t k = 0; k < x.size; ++k) {
        const double term = static_cast<double>(x(m, k)) * static_cast<double>(w(n, k));
        sum += term;
        magnitude += std::fabs(term);
      }
      EXPECT_NEAR(out[static_cast<std::size_t>(m * w.rows + n)], sum, 1e-6 * magnitude + 1e-12);
    }
  }
}

TEST_P(RowProductsOf, FewRowsEqualASlowProduct) {
  for (const Shape& shape : testing::product_shapes()) {
    if (shape.rows > kFewRows) continue;
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const Matrix x(shape.rows, shape.size, 14), w(shape.outputs, shape.size, 15);
      const std::vector<float> out = product_of_few(x, w, dtype, shape.rows);
      expect_slow_product(x, w, out);
      for (const int threads : {2, 7}) {
        set_num_threads(threads);
        EXPECT_EQ(product_of_few(x, w, dtype, shape.rows), out);
      }
      set_num_threads(1);
      const std::vector<float> first = product_of_few(x, w, dtype, 1);
      EXPECT_TRUE(std::equal(first.begin(), first.end(), out.begin()));
    }
  }
}

TEST_P(RowProductsOf, SomeRowsEqualASlowProduct) {
  if (!has_bf16_products()) GTEST_SKIP();
  for (const Shape& shape : {Shape{1, 5, 40}, {6, 16, 64}, {13, 35, 97}, {kSomeRows, 50, 31}}) {
    const Matrix x(shape.rows, shape.size, 18), w(shape.outputs, shape.size, 19);
    const auto product_of = [&](std::int64_t count) {
      std::vector<float> out(static_cast<std::size_t>(count * w.rows), kNan);
      RowsView rows = x.view(DType::kBF16);
      rows.count = count;
      multiply_some_rows(rows, w.view(DType::kBF16), {out.data(), w.rows, DType::kF32});
      return out;
    };
    const std::vector<float> out = product_of(shape.rows);
    expect_slow_product(x, w, out);
    for (const int threads : {2, 7}) {
      set_num_threads(threads);
      EXPECT_EQ(product_of(shape.rows), out);
    }
    set_num_threads(1);
    const std::vector<float> first = product_of(1);
    EXPECT_TRUE(std::equal(first.begin(), first.end(), out.begin()));
  }
}

TEST_P(RowProductsOf, SomeRowsPassOnWhatIsNoNumber) {
  if (!has_bf16_products()) GTEST_SKIP();
  Matrix x(8, 50, 20), w(19, 50, 21);
  x.set(6, 49, kNan);
  std::vector<float> out(8 * 19);
  multiply_some_rows(x.view(DType::kBF16), w.view(DType::kBF16), {out.data(), 19, DType::kF32});
  for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isnan(out[i]), i / 19 == 6) << i;
}

TEST_P(RowProductsOf, GroupsOfRowsMeetTheirOwnWeight) {
  const Matrix x(9, 70, 22), w(41, 70, 23), other(41, 70, 24);
  std::vector<float> few(9 * 41, kNan), few_expected(9 * 41, kNan);
  RowsView two = x.view(DType::kF32), seven = two;
  two.count = 2;
  seven.data = seven.row(2);
  seven.count = 7;
  const ProductOut to_two{few.data(), 41, DType::kF32};
  const ProductOut to_seven{few.data() + 2 * 41, 41, DType::kF32};
  multiply_few_rows(
      {{two, w.view(DType::kF32), to_two}, {seven, other.view(DType::kF32), to_seven}});
  multiply_few_rows(two, w.view(DType::kF32), {few_expected.data(), 41, DType::kF32});
  multiply_few_rows(seven, other.view(DType::kF32),
                    {few_expected.data() + 2 * 41, 41, DType::kF32});
  EXPECT_EQ(few, few_expected);
}

TEST_P(RowProductsOf, FewRowsPassOnWhatIsNoNumber) {
  Matrix x(3, 50, 16), w(9, 50, 17);
  x.set(1, 49, kNan);
  const std::vector<float> out = product_of_few(x, w, DType::kBF16, 3);
  for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isnan(out[i]), i / 9 == 1) << i;
}

}  // namespace
}  // namespace loza::model_cpu
