#include "loza/model/weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/torch.h>

#include <numeric>

#include "loza/base/check.h"
#include "loza/base/error.h"
#include "loza/checkpoint/tensor.h"

namespace loza {
namespace {

std::string shape_text(at::IntArrayRef shape) {
  return fmt::format("[{}]", fmt::join(shape.begin(), shape.end(), ", "));
}

bool is_float(const std::string& dtype) {
  return dtype == "F32" || dtype == "BF16" || dtype == "F16" || dtype == "F64";
}

}  // namespace

Weights::Weights(const Checkpoint& checkpoint, at::ScalarType dtype, at::Device device,
                 WeightFormat format)
    : checkpoint_(&checkpoint), dtype_(dtype), device_(device), format_(format) {}

const TensorEntry* Weights::find(const std::string& name, at::IntArrayRef shape) {
  if (checkpoint_ == nullptr) return nullptr;
  const TensorEntry& entry = checkpoint_->tensor(name);
  const std::string place = fmt::format("{}: tensor '{}'", checkpoint_->folder().string(), name);
  if (at::IntArrayRef(entry.shape) != shape) {
    throw_bad_input(place, fmt::format("shape {} by config.json", shape_text(shape)),
                    shape_text(entry.shape));
  }
  if (!is_float(entry.dtype)) {
    throw_bad_input(place, "dtype F32, BF16, F16 or F64", entry.dtype,
                    "quantised weights are not supported");
  }
  taken_.insert(name);
  return &entry;
}

at::Tensor Weights::take(const std::string& name, const std::vector<std::int64_t>& shape,
                         std::optional<at::ScalarType> dtype) {
  const TensorEntry* entry = find(name, shape);
  const at::ScalarType kept = dtype.value_or(dtype_);
  const at::Tensor tensor = allocate(shape, kept);
  if (!device_.is_meta()) tensor.copy_(load_tensor(*entry, kept));
  add_parameter(name, tensor);
  return tensor;
}

at::Tensor Weights::allocate(const std::vector<std::int64_t>& shape, at::ScalarType dtype) {
  const at::TensorOptions options = at::TensorOptions(dtype).device(device_);
  if (!device_.is_cpu()) return at::empty(shape, options);
  const std::int64_t bytes =
      c10::multiply_integers(shape) * static_cast<std::int64_t>(c10::elementSize(dtype));
  const std::shared_ptr<std::byte> memory = memory_.take(bytes);
  return at::from_blob(
      memory.get(), shape, [memory](void*) {}, options);
}

void Weights::fill(const std::string& name, const at::Tensor& target) {
  const TensorEntry* entry = find(name, target.sizes());
  if (!device_.is_meta()) target.copy_(load_tensor(*entry, target.scalar_type()));
}

void Weights::add_parameter(const std::string& name, const at::Tensor& tensor) {
  parameters_.emplace_back(name, tensor);
  num_parameters_ += tensor.numel();
}

Weights::Stack Weights::take_stacked(const std::vector<std::string>& names,
                                     const std::vector<std::int64_t>& sizes,
                                     const std::vector<std::int64_t>& rest) {
  Stack stack{allocate(check_stack(names, sizes, rest)), {}};
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const at::Tensor part = stack.whole.narrow(0, begin, sizes[i]).detach();
    fill(names[i], part);
    add_parameter(names[i], part);
    stack.parts.push_back(part);
    begin += sizes[i];
  }
  return stack;
}

at::Tensor Weights::read_stacked(const std::vector<std::string>& names,
                                 const std::vector<std::int64_t>& sizes,
                                 const std::vector<std::int64_t>& rest) {
  const at::Tensor whole =
      at::empty(check_stack(names, sizes, rest), at::TensorOptions(at::kFloat).device(device_));
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < names.size(); ++i) {
    fill(names[i], whole.narrow(0, begin, sizes[i]));
    begin += sizes[i];
  }
  num_parameters_ += whole.numel();
  return whole;
}

// Every part is checked before the whole is allocated.
std::vector<std::int64_t> Weights::check_stack(const std::vector<std::string>& names,
                                               const std::vector<std::int64_t>& sizes,
                                               const std::vector<std::int64_t>& rest) {
  LOZA_CHECK(names.size() == sizes.size(), names.size(), sizes.size());
  std::vector<std::int64_t> shape = {0};
  shape.insert(shape.end(), rest.begin(), rest.end());
  for (std::size_t i = 0; i < names.size(); ++i) {
    shape[0] = sizes[i];
    find(names[i], shape);
  }
  shape[0] = std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
  return shape;
}

}  // namespace loza
