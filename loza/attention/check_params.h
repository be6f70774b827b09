#pragma once

#include "loza/attention/params.h"

namespace loza {

// Throw std::logic_error (LOZA_CHECK) where sizes, offsets or the pattern contradict each
// other, or where a query would see a position that the sequence does not hold. They look at
// the structs and the host arrays only, never at tensor data.
void check_params(const ForwardParams& params);
void check_params(const BackwardParams& params);
void check_params(const DecodeParams& params);

}  // namespace loza
