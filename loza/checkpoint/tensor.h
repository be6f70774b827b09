#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "loza/checkpoint/checkpoint.h"

// The room's door for code that has tensors.
namespace loza {

// The entry's dtype in torch's words. Throws Error(kBadInput) for one that loza does not know.
at::ScalarType scalar_type_of(const TensorEntry& entry);

// A copy of the entry as a CPU tensor, converted to `dtype` if given (else the file's own).
at::Tensor load_tensor(const TensorEntry& entry, std::optional<at::ScalarType> dtype = {});

// An entry over a contiguous CPU tensor's memory; the tensor must outlive it.
TensorEntry entry_of(const std::string& name, const at::Tensor& tensor);

}  // namespace loza
