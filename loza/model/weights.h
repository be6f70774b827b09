#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "loza/base/huge_pages.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/model/named_tensors.h"

namespace loza {

// How a model keeps the weights of its linear layers.
enum class WeightFormat {
  kDtype,  // in the compute dtype: trained, and shared with parameters()
  kInt8,   // on the CPU, without gradients: see cpu/int8_weight.h
};

// Hands a model its weights while the model is built, and keeps the list of them. On the meta
// device nothing is read or allocated: building a model there checks every name and shape.
class Weights {
 public:
  Weights(const Checkpoint& checkpoint, at::ScalarType dtype, at::Device device,
          WeightFormat format = WeightFormat::kDtype);
  // Without a checkpoint, on the meta device: lists what a model is made of.
  Weights() : dtype_(at::kFloat), device_(at::kMeta) {}

  // The tensor of that name; `dtype` where it is not the compute dtype.
  // Throws Error(kBadInput) when it is missing or has another shape.
  at::Tensor take(const std::string& name, const std::vector<std::int64_t>& shape,
                  std::optional<at::ScalarType> dtype = {});
  // One tensor [sizes[0] + sizes[1] + ..., rest...] that holds the named ones behind each
  // other; part i, [sizes[i], rest...], is a view of it in the list of parameters.
  struct Stack {
    at::Tensor whole;
    std::vector<at::Tensor> parts;
  };
  Stack take_stacked(const std::vector<std::string>& names, const std::vector<std::int64_t>& sizes,
                     const std::vector<std::int64_t>& rest);
  // Such a stack in fp32 for the caller alone: counted, but not in the list of parameters.
  at::Tensor read_stacked(const std::vector<std::string>& names,
                          const std::vector<std::int64_t>& sizes,
                          const std::vector<std::int64_t>& rest);
  // Records a tensor that is part of another one, filled by fill().
  void add_parameter(const std::string& name, const at::Tensor& tensor);
  at::Tensor allocate(const std::vector<std::int64_t>& shape) { return allocate(shape, dtype_); }
  // Copies the tensor of that name into `target`, which has its shape.
  void fill(const std::string& name, const at::Tensor& target);

  // Where weights lie on the CPU.
  HugePageArena& memory() { return memory_; }
  at::ScalarType dtype() const { return dtype_; }
  at::Device device() const { return device_; }
  WeightFormat format() const { return format_; }
  std::int64_t num_parameters() const { return num_parameters_; }
  const NamedTensors& parameters() const { return parameters_; }
  const std::set<std::string>& taken() const { return taken_; }

 private:
  // The shape of the whole.
  std::vector<std::int64_t> check_stack(const std::vector<std::string>& names,
                                        const std::vector<std::int64_t>& sizes,
                                        const std::vector<std::int64_t>& rest);
  at::Tensor allocate(const std::vector<std::int64_t>& shape, at::ScalarType dtype);
  // Null without a checkpoint.
  const TensorEntry* find(const std::string& name, at::IntArrayRef shape);

  const Checkpoint* checkpoint_ = nullptr;
  at::ScalarType dtype_;
  at::Device device_;
  WeightFormat format_ = WeightFormat::kDtype;
  HugePageArena memory_;
  std::int64_t num_parameters_ = 0;
  NamedTensors parameters_;
  std::set<std::string> taken_;
};

}  // namespace loza
