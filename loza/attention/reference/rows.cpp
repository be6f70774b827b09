#include "loza/attention/reference/rows.h"

#include "loza/base/float16.h"

namespace loza::reference {

double load_element(DType dtype, const void* data, std::int64_t idx) {
  switch (dtype) {
    case DType::kF64:
      return static_cast<const double*>(data)[idx];
    case DType::kF32:
      return static_cast<const float*>(data)[idx];
    case DType::kBF16:
      return static_cast<float>(static_cast<const BFloat16*>(data)[idx]);
    case DType::kF16:
      return static_cast<float>(static_cast<const Float16*>(data)[idx]);
  }
  return 0;
}

void store_element(DType dtype, void* data, std::int64_t idx, double value) {
  const auto rounded = static_cast<float>(value);
  switch (dtype) {
    case DType::kF64:
      static_cast<double*>(data)[idx] = value;
      return;
    case DType::kF32:
      static_cast<float*>(data)[idx] = rounded;
      return;
    case DType::kBF16:
      static_cast<BFloat16*>(data)[idx] = BFloat16(rounded);
      return;
    case DType::kF16:
      static_cast<Float16*>(data)[idx] = Float16(rounded);
      return;
  }
}

std::vector<double> load_head(const TensorView& view, DType dtype, std::int64_t head_idx,
                              std::int64_t begin, std::int64_t end, std::int64_t size) {
  std::vector<double> rows;
  rows.reserve(static_cast<std::size_t>((end - begin) * size));
  for (std::int64_t t = begin; t < end; ++t) {
    for (std::int64_t i = 0; i < size; ++i) {
      rows.push_back(
          load_element(dtype, view.data, t * view.token_stride + head_idx * view.head_stride + i));
    }
  }
  return rows;
}

void store_head(const std::vector<double>& rows, const TensorView& view, DType dtype,
                std::int64_t head_idx, std::int64_t begin, std::int64_t end, std::int64_t size) {
  std::size_t next = 0;
  for (std::int64_t t = begin; t < end; ++t) {
    for (std::int64_t i = 0; i < size; ++i) {
      store_element(dtype, view.data, t * view.token_stride + head_idx * view.head_stride + i,
                    rows[next++]);
    }
  }
}

}  // namespace loza::reference
