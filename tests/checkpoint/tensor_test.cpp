#include "loza/checkpoint/tensor.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "loza/base/error.h"
#include "tests/support/temp_folder.h"

namespace loza {
namespace {

using testing::TempFolder;

const std::vector<at::ScalarType> kTypes = {
    at::kBool,   at::kByte,   at::kChar,   at::kShort,       at::kInt,           at::kLong,
    at::kHalf,   at::kFloat,  at::kDouble, at::kBFloat16,    at::kComplexFloat,  at::kFloat8_e4m3fn,
    at::kUInt16, at::kUInt32, at::kUInt64, at::kFloat8_e5m2, at::kFloat8_e8m0fnu};

// Some tensor of the type whose bytes are all different.
at::Tensor make(at::ScalarType type, at::IntArrayRef shape) {
  at::Tensor tensor = at::empty(shape, type);
  auto* bytes = static_cast<std::uint8_t*>(tensor.data_ptr());
  for (std::size_t i = 0; i < tensor.nbytes(); ++i) {
    bytes[i] = static_cast<std::uint8_t>(type == at::kBool ? i % 2 : i * 7 + 1);
  }
  return tensor;
}

bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && a.nbytes() == b.nbytes() &&
         (a.nbytes() == 0 || std::memcmp(a.data_ptr(), b.data_ptr(), a.nbytes()) == 0);
}

TEST(Tensor, EveryTypeSurvivesAFile) {
  const TempFolder folder;
  std::vector<at::Tensor> tensors;
  std::vector<TensorEntry> entries;
  for (const at::ScalarType type : kTypes) {
    tensors.push_back(make(type, {3, 5}));
    tensors.push_back(make(type, {}));
    tensors.push_back(make(type, {2, 0, 4}));
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    entries.push_back(entry_of("t" + std::to_string(i), tensors[i]));
  }
  write_safetensors(folder / "a.safetensors", entries);
  const SafetensorsFile file(folder / "a.safetensors");
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor read = load_tensor(file.tensors().at("t" + std::to_string(i)));
    EXPECT_TRUE(same_bytes(read, tensors[i])) << tensors[i].scalar_type() << tensors[i].sizes();
  }
}

TEST(Tensor, LoadsACopyInTheDtypeAsked) {
  at::Tensor source = torch::tensor({1.0f, 1.00390625f, -3.0f});
  const TensorEntry entry = entry_of("a", source);
  const at::Tensor copy = load_tensor(entry), half = load_tensor(entry, at::kBFloat16);
  source.fill_(std::nanf(""));
  EXPECT_TRUE(at::equal(copy, torch::tensor({1.0f, 1.00390625f, -3.0f})));
  EXPECT_EQ(half.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::equal(half.to(at::kFloat), torch::tensor({1.0f, 1.0f, -3.0f})));
}

TEST(Tensor, EntryLooksAtTheTensorsMemory) {
  const at::Tensor source = torch::arange(6, at::kInt).reshape({2, 3});
  const TensorEntry entry = entry_of("x", source);
  EXPECT_EQ(entry.name, "x");
  EXPECT_EQ(entry.dtype, "I32");
  EXPECT_EQ(entry.shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(entry.bytes.size(), 24u);
  EXPECT_EQ(static_cast<const void*>(entry.bytes.data()), source.data_ptr());
  EXPECT_THROW(entry_of("x", source.t()), std::logic_error) << "not contiguous";
  EXPECT_THROW(entry_of("x", source.to(at::kComplexDouble)), std::logic_error);
}

TEST(Tensor, RefusesATypeThatTorchLacks) { EXPECT_THROW(load_tensor({"x", "F4", {0}, {}}), Error); }

}  // namespace
}  // namespace loza
