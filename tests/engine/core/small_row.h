#pragma once

#include "loza/engine/kv_row.h"

namespace loza {

// A row of two floats: key, value.
inline KvRow small_row() { return KvRow::heads(DType::kF32, 1, 1, 1); }

}  // namespace loza
