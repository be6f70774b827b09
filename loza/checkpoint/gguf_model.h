#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "loza/base/json.h"
#include "loza/checkpoint/gguf_file.h"

namespace loza {

// A GGUF file's model in Hugging Face's words.
struct GgufModel {
  struct Tensor {
    const GgufTensor* source;  // in the GgufFile
    std::string name;          // Hugging Face's
    // Not 0: a projection of so many heads in whose rows the two halves of each head, which
    // the rotary embedding turns against each other, alternate. Hugging Face's order has one
    // half after the other.
    std::int64_t num_interleaved_heads = 0;
  };

  Json config;                  // config.json without the dtype
  std::vector<Tensor> tensors;  // all of the file's, in the order of the layers
};

// Throws Error(kBadInput) that names the architecture, key or tensor that is missing, not
// known, or not of the shape that the keys imply. `file` must outlive the result.
GgufModel map_gguf_model(const GgufFile& file);

// The row of the source that becomes the row `row` of a tensor with interleaved heads.
// REQUIRES: num_rows a multiple of 2 * num_heads; 0 <= row < num_rows.
std::int64_t interleaved_source_row(std::int64_t row, std::int64_t num_rows,
                                    std::int64_t num_heads);

}  // namespace loza
