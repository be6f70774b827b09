#include "loza/checkpoint/tensor.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <array>
#include <cstring>
#include <utility>

#include "loza/base/check.h"
#include "loza/base/error.h"

namespace loza {
namespace {

constexpr std::array<std::pair<const char*, at::ScalarType>, 17> kDtypes = {{
    {"BOOL", at::kBool},
    {"U8", at::kByte},
    {"I8", at::kChar},
    {"F8_E4M3", at::kFloat8_e4m3fn},
    {"F8_E5M2", at::kFloat8_e5m2},
    {"F8_E8M0", at::kFloat8_e8m0fnu},
    {"U16", at::kUInt16},
    {"I16", at::kShort},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"U32", at::kUInt32},
    {"I32", at::kInt},
    {"F32", at::kFloat},
    {"U64", at::kUInt64},
    {"I64", at::kLong},
    {"F64", at::kDouble},
    {"C64", at::kComplexFloat},
}};

}  // namespace

at::ScalarType scalar_type_of(const TensorEntry& entry) {
  for (const auto& [name, type] : kDtypes) {
    if (entry.dtype == name) return type;
  }
  throw_bad_input(fmt::format("tensor {}", quote_name(entry.name)), "a dtype that loza knows",
                  quote_name(entry.dtype));
}

at::Tensor load_tensor(const TensorEntry& entry, std::optional<at::ScalarType> dtype) {
  at::Tensor tensor = at::empty(entry.shape, at::dtype(scalar_type_of(entry)));
  LOZA_CHECK(tensor.nbytes() == entry.bytes.size(), entry.name, entry.bytes.size());
  if (!entry.bytes.empty()) {
    std::memcpy(tensor.data_ptr(), entry.bytes.data(), entry.bytes.size());
  }
  return dtype ? tensor.to(*dtype) : tensor;
}

TensorEntry entry_of(const std::string& name, const at::Tensor& tensor) {
  LOZA_CHECK(tensor.device().is_cpu() && tensor.is_contiguous(), name);
  for (const auto& [dtype, type] : kDtypes) {
    if (tensor.scalar_type() != type) continue;
    return {name,
            dtype,
            tensor.sizes().vec(),
            {static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()}};
  }
  LOZA_CHECK(!"a dtype that safetensors has", name, at::toString(tensor.scalar_type()));
  return {};
}

}  // namespace loza
